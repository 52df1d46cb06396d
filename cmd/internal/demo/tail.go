package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"github.com/jedib0t/go-pretty/v6/table"

	"odometer/billing"
	"odometer/cmd/internal/app"
	"odometer/cmd/internal/cli"
	"odometer/ingest/publisher"
)

// lostMessages is how many events the drill has the stream lose.
const lostMessages = 5

// loseTail puts an older copy of the stream back, as after a disk that did not
// sync. What the stream lost stays counted; who still has it publishes it
// again, and it is evidence again without being counted twice.
func (d *demo) loseTail(ctx context.Context) (row table.Row, repaired bool, err error) {
	copyOf := filepath.Join(d.dir, "nats-before")
	defer os.RemoveAll(copyOf)
	if err := d.restart(ctx, func(store string) error { return os.CopyFS(copyOf, os.DirFS(store)) }); err != nil {
		return nil, false, err
	}
	events := newEvents(&Tenants[0], billing.SampleCatalogue().Agents[0], d.keys, lostMessages)
	if err := d.publish(ctx, events); err != nil {
		return nil, false, err
	}
	before, epoch, err := d.countOf(ctx, Tenants[0].ID)
	if err != nil {
		return nil, false, err
	}
	if err := d.restart(ctx, func(store string) error {
		return errors.Join(os.RemoveAll(store), os.CopyFS(store, os.DirFS(copyOf)))
	}); err != nil {
		return nil, false, err
	}
	if err := d.waitForEpoch(ctx, epoch); err != nil {
		return nil, false, err
	}
	if err := d.publish(ctx, events); err != nil {
		return nil, false, err
	}
	after, _, err := d.countOf(ctx, Tenants[0].ID)
	if err != nil {
		return nil, false, err
	}
	report, err := d.audit(ctx)
	if err != nil {
		return nil, false, err
	}
	found := fmt.Sprintf("epoch %d begun by the reader", epoch+1)
	repaired = report.Different == 0 && after == before
	verdict := "equal"
	if !repaired {
		verdict = fmt.Sprintf("DIFFERENT: %d, counted %d, then %d", report.Different, before, after)
	}
	return table.Row{fmt.Sprintf("the stream's last %d messages lost", lostMessages), found, "publishing them again", verdict}, repaired, nil
}

// restart stops the stream, lets something be done to its files, and starts it
// again at the same address.
func (d *demo) restart(ctx context.Context, meanwhile func(store string) error) error {
	address, ok := d.server.Addr().(*net.TCPAddr)
	if !ok {
		return fmt.Errorf("NATS listens at %v", d.server.Addr())
	}
	d.stopStream()
	store := filepath.Join(d.dir, "nats")
	failed := meanwhile(store)
	server, err := app.StartNATSAt(store, address.Port)
	if err != nil {
		return errors.Join(failed, err)
	}
	d.server = server
	for !d.nats.IsConnected() {
		if err := cli.PauseFor(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return failed
}

// publish publishes events and waits until the books are through them.
func (d *demo) publish(ctx context.Context, events []publisher.Event) error {
	pub, err := publisher.New(d.nats)
	if err != nil {
		return err
	}
	results, err := pub.PublishBatch(ctx, events)
	if err != nil {
		return err
	}
	var last uint64
	for _, r := range results {
		if r.Err != nil {
			return r.Err
		}
		last = max(last, r.Ack.Seq)
	}
	return d.waitUntilRead(ctx, int64(last))
}

const countOfSQL = `
select
    (select coalesce(sum(count), 0)::bigint from usage_counters where tenant_id = $1),
    (select max(epoch) from stream_epochs)`

func (d *demo) countOf(ctx context.Context, tenant uuid.UUID) (count int64, epoch int, err error) {
	if err := d.pool.QueryRow(ctx, countOfSQL, tenant).Scan(&count, &epoch); err != nil {
		return 0, 0, fmt.Errorf("read the counters: %w", err)
	}
	return count, epoch, nil
}

// waitForEpoch waits until the reader has noticed that the stream is another.
func (d *demo) waitForEpoch(ctx context.Context, after int) error {
	deadline := time.Now().Add(catchUpTime)
	for {
		_, epoch, err := d.countOf(ctx, Tenants[0].ID)
		switch {
		case err != nil:
			return err
		case epoch > after:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("nobody has noticed after %s: look into %s/odometer.log", catchUpTime, d.dir)
		}
		if err := cli.PauseFor(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}
