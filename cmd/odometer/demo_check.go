package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/nats-io/nats.go/jetstream"

	"odometer/ingest"
)

// settleTime is how long the books may take to catch up with the stream.
const settleTime = 30 * time.Second

// check waits until the stream is read to its end, compares the books with it
// and with what was acknowledged to the agents, and prints what it found. The
// finding is nil when all is equal.
func (d *demo) check(ctx context.Context, agents *demoAgents, before map[demoKey]int64) (finding, err error) {
	ctx, cancel := context.WithTimeout(ctx, settleTime+10*time.Second)
	defer cancel()
	stream, err := mustJetStream(d.nats).Stream(ctx, ingest.StreamName)
	if err != nil {
		return nil, fmt.Errorf("look at the stream: %w", err)
	}
	state := stream.CachedInfo().State
	if err := d.settle(ctx, int64(state.LastSeq)); err != nil {
		return nil, err
	}
	var comparisons []comparison
	for _, compare := range []func(context.Context, jetstream.StreamState) ([]comparison, error){
		d.compareStream, d.compareCounters,
		func(ctx context.Context, _ jetstream.StreamState) ([]comparison, error) {
			return d.compareAcknowledged(ctx, agents, before)
		},
		func(ctx context.Context, _ jetstream.StreamState) ([]comparison, error) { return d.compareStripe(ctx) },
	} {
		found, err := compare(ctx, state)
		if err != nil {
			return nil, err
		}
		comparisons = append(comparisons, found...)
	}
	finding = d.printComparisons(ctx, comparisons)
	d.bill()
	return finding, nil
}

// settle waits until every partition is read through the last message.
func (d *demo) settle(ctx context.Context, last int64) error {
	deadline := time.Now().Add(settleTime)
	for {
		var through int64
		err := d.pool.QueryRow(ctx, `select coalesce(min(seq), 0) from stream_positions`).Scan(&through)
		switch {
		case err != nil:
			return fmt.Errorf("read the positions: %w", err)
		case through >= last:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("the stream ends at %d but after %s it is read only through %d: look into %s/odometer.log",
				last, settleTime, through, d.dir)
		}
		if err := pauseFor(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// comparison is two figures that must be the same.
type comparison struct {
	what        string
	left, right int64
}

const booksSQL = `
select
    (select count(*) from usage_events) as events,
    (select count(*) from dead_letters) as dead`

// compareStream checks that each message of the stream is an event, a
// duplicate or a dead letter.
func (d *demo) compareStream(ctx context.Context, state jetstream.StreamState) ([]comparison, error) {
	p, err := loadStanding(ctx, d.pool)
	if err != nil {
		return nil, err
	}
	var events, dead int64
	if err := d.pool.QueryRow(ctx, booksSQL).Scan(&events, &dead); err != nil {
		return nil, fmt.Errorf("count the books: %w", err)
	}
	return []comparison{
		{"messages in the stream = events + duplicates + dead letters", int64(state.LastSeq), events + p.Duplicates + dead},
		{"events that batches say they added = events stored", p.Events, events},
	}, nil
}

const driftSQL = `
select
    coalesce(sum(c.count), 0)::bigint,
    coalesce(sum(e.quantity), 0)::bigint,
    count(*) filter (where coalesce(c.count, 0) <> coalesce(e.quantity, 0))
from (
    select tenant_id, agent, period_start, sum(quantity) as quantity
    from usage_events
    group by tenant_id, agent, period_start
) e
full join usage_counters c using (tenant_id, agent, period_start)`

// compareCounters checks that each counter is the sum of its events.
func (d *demo) compareCounters(ctx context.Context, _ jetstream.StreamState) ([]comparison, error) {
	var counted, summed, drifted int64
	if err := d.pool.QueryRow(ctx, driftSQL).Scan(&counted, &summed, &drifted); err != nil {
		return nil, fmt.Errorf("compare counters with events: %w", err)
	}
	return []comparison{
		{"units in all counters = units of all events", counted, summed},
		{"counters that differ from their events = 0", drifted, 0},
	}, nil
}

const countsSQL = `
select tenant_id, agent, sum(count)::bigint
from usage_counters
group by tenant_id, agent`

func loadCounts(ctx context.Context, pool *pgxpool.Pool) (map[demoKey]int64, error) {
	counts := map[demoKey]int64{}
	rows, _ := pool.Query(ctx, countsSQL)
	var key demoKey
	var count int64
	_, err := pgx.ForEachRow(rows, []any{&key.tenant, &key.agent, &count}, func() error {
		counts[key] = count
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the counters: %w", err)
	}
	return counts, nil
}

// compareAcknowledged checks the counters against the agents' own notes.
func (d *demo) compareAcknowledged(ctx context.Context, agents *demoAgents, before map[demoKey]int64) ([]comparison, error) {
	after, err := loadCounts(ctx, d.pool)
	if err != nil {
		return nil, err
	}
	var promised, counted, differ int64
	for key, count := range after {
		counted += count - before[key]
		if count-before[key] != agents.granted[key] {
			differ++
		}
	}
	for _, units := range agents.granted {
		promised += units
	}
	return []comparison{
		{"units acknowledged to the agents = units counted", promised, counted},
		{"counters that differ from the agents' notes = 0", differ, 0},
	}, nil
}

func (d *demo) printComparisons(ctx context.Context, comparisons []comparison) (finding error) {
	fmt.Fprintf(d.t.out, "\n%s\n\n", d.picture(ctx))
	var rows []table.Row
	for _, c := range comparisons {
		verdict := "equal"
		if c.left != c.right {
			verdict, finding = "DIFFERENT", errSaid
		}
		rows = append(rows, table.Row{c.what, c.left, c.right, verdict})
	}
	d.t.table(table.Row{"the books", "", "", ""}, rows, 2, 3)
	return finding
}
