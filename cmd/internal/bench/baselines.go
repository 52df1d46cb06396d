package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"odometer"
	"odometer/aggregator"
	"odometer/cmd/internal/cli"
)

// The naive way, as it is usually written: for each event a transaction that
// asks for the subscription's period, inserts the event, reads the counter for
// update and writes it back. It has the same stream, the same decoder, the same
// tables and the same protection against repeats as the aggregator.
const naivePeriodSQL = `
select p.period_start
from subscriptions s
join billing_periods p on p.tenant_id = s.tenant_id
where s.tenant_id = $1
  and s.status in ('trial', 'active', 'past_due')
  and p.period_start <= $2
  and p.period_end > $2`

var naiveInsertSQL = insertEventsSQL + `
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
on conflict (tenant_id, event_id) do nothing`

const naiveCounterSQL = `
select count
from usage_counters
where tenant_id = $1
  and agent = $2
  and period_start = $3
for update`

const naiveUpdateSQL = `
update usage_counters
set count = $4,
    last_event_at = greatest(last_event_at, $5),
    updated_at = now()
where tenant_id = $1
  and agent = $2
  and period_start = $3`

func countOne(ctx context.Context, tx pgx.Tx, e *odometer.Event) error {
	var period time.Time
	if err := tx.QueryRow(ctx, naivePeriodSQL, e.Tenant, e.OccurredAt).Scan(&period); err != nil {
		return err
	}
	inserted, err := tx.Exec(ctx, naiveInsertSQL, rowOf(e, period)...)
	if err != nil || inserted.RowsAffected() == 0 {
		return err
	}
	var count int64
	if err := tx.QueryRow(ctx, naiveCounterSQL, e.Tenant, e.Agent, period).Scan(&count); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, naiveUpdateSQL, e.Tenant, e.Agent, period, count+e.Quantity, e.OccurredAt)
	return err
}

// prepareNaive is the naive way: over so many connections it takes a message,
// counts it, and acknowledges it once that is committed.
func prepareNaive(ctx context.Context, _ *cli.Terminal, p childParams) (childWork, string, error) {
	nc, pool, err := connectChild(ctx, p)
	if err != nil {
		return nil, "", err
	}
	countNext := func(ctx context.Context, messages jetstream.MessagesContext) error {
		msg, err := messages.Next()
		if err != nil {
			return fmt.Errorf("read the stream: %w", err)
		}
		e, err := decodeStored(msg)
		if err != nil {
			return err
		}
		finish := context.WithoutCancel(ctx) // what has begun is finished
		err = pgx.BeginFunc(finish, pool, func(tx pgx.Tx) error { return countOne(finish, tx, &e) })
		if err != nil {
			return fmt.Errorf("count one event: %w", err)
		}
		_ = msg.Ack() // a lost one is delivered again, and changes nothing
		return nil
	}
	return func(ctx context.Context) (any, error) {
		defer nc.Close()
		defer pool.Close()
		messages, err := consume(ctx, nc, jetstream.AckExplicitPolicy)
		if err != nil {
			return nil, err
		}
		defer messages.Stop()
		defer context.AfterFunc(ctx, messages.Stop)()
		var group errgroup.Group
		for range p.Connections {
			group.Go(func() error {
				for {
					if err := countNext(ctx, messages); ctx.Err() != nil {
						return nil //nolint:nilerr // the time is up
					} else if err != nil {
						return err
					}
				}
			})
		}
		return nil, group.Wait()
	}, "", nil
}

const eventCountSQL = `
select count(*)
from usage_events`

// runNaive lets the naive way count the first stream for a while.
func (w *writeBench) runNaive(ctx context.Context, connections int) (r writeRun, err error) {
	if err := w.naive.clear(ctx); err != nil {
		return r, err
	}
	p, err := w.start(ctx, "naive", childParams{DatabaseURL: w.naive.url, NATSURL: w.first.server.ClientURL(), Connections: connections})
	if err != nil {
		return r, err
	}
	before, err := w.naive.eventBytes(ctx)
	if err != nil {
		return r, errors.Join(err, p.stop())
	}
	r.measurement, err = w.measure(func() error {
		return inOrder(p.begin,
			func() error { return odometer.Sleep(ctx, w.Span/naiveShare) },
			func() error { return w.naive.QueryRow(ctx, eventCountSQL).Scan(&r.events) })
	}, p)
	if err := errors.Join(err, p.stop()); err != nil {
		return r, fmt.Errorf("count the events: %w", err)
	}
	if r.events == 0 {
		return r, fmt.Errorf("nothing was counted in %s: the machine is too busy", w.Span/naiveShare)
	}
	after, err := w.naive.eventBytes(ctx)
	if err != nil {
		return r, err
	}
	r.stored = after - before
	_, err = w.naive.totals(ctx)
	return r, err
}

// eventsTable and eventColumns are what the benchmarks write past the product:
// one by one, by COPY, and to have events stored before growth begins.
const eventsTable = "usage_events"

var eventColumns = []string{
	"tenant_id", "event_id", "agent", "kind", "action_type", "resource_id", "quantity", "idempotency_key",
	"metadata", "occurred_at", "recorded_at", "period_start", "stream_epoch", "stream_seq",
}

var insertEventsSQL = "insert into " + eventsTable + " (" + strings.Join(eventColumns, ", ") + ")"

func rowOf(e *odometer.Event, period time.Time) []any {
	return []any{
		e.Tenant, e.ID(), e.Agent, string(e.Kind), e.Action, e.Resource, e.Quantity, e.Key,
		e.Metadata, e.OccurredAt, e.RecordedAt, period, e.Position.Epoch, e.Position.Seq,
	}
}

const periodSQL = `
select min(period_start)
from billing_periods`

// prepareRows makes the rows of all events beforehand: COPY's time is the
// database's alone.
func (w *writeBench) prepareRows(ctx context.Context) error {
	var period time.Time
	if err := w.copied.QueryRow(ctx, periodSQL).Scan(&period); err != nil {
		return fmt.Errorf("read the period: %w", err)
	}
	w.rows = make([][]any, w.Events)
	for i := range w.rows {
		e := w.work.stored(i)
		w.rows[i] = rowOf(&e, period)
	}
	return nil
}

// runCopy is the limit of what one connection can store: the rows as they are,
// in binary, into the same table with the same indexes, in transactions as
// large as the aggregator's. Nothing is counted, and a repeat would undo all.
func (w *writeBench) runCopy(ctx context.Context) (r writeRun, err error) {
	if err := w.copied.clear(ctx); err != nil {
		return r, err
	}
	return w.runStored(ctx, w.copied, len(w.rows), func() error {
		for from := 0; from < len(w.rows); from += aggregator.DefaultBatchSize {
			some := w.rows[from:min(len(w.rows), from+aggregator.DefaultBatchSize)]
			if _, err := w.copied.CopyFrom(ctx, pgx.Identifier{eventsTable}, eventColumns, pgx.CopyFromRows(some)); err != nil {
				return fmt.Errorf("copy %d rows: %w", len(some), err)
			}
		}
		return nil
	})
}
