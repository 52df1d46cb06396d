package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jedib0t/go-pretty/v6/table"

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
	acknowledged, err := d.compareAcknowledged(ctx, agents, before)
	if err != nil {
		return nil, err
	}
	told, err := d.compareStripe(ctx)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(d.t.out, "\n%s\n\n", d.picture(ctx))
	finding = d.printComparisons(append(acknowledged, told...))
	report, err := d.audit(ctx)
	if err != nil {
		return nil, err
	}
	fmt.Fprintln(d.t.out)
	printAudit(d.t, report)
	if report.Different > 0 {
		finding = errSaid
	}
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

// Corrections are not the agents' work: somebody may try them while the demo runs.
const countsSQL = `
select
    c.tenant_id,
    c.agent,
    (sum(c.count) - (
        select coalesce(sum(e.quantity), 0)
        from usage_events e
        where e.tenant_id = c.tenant_id and e.agent = c.agent and e.kind = 'adjustment'
    ))::bigint
from usage_counters c
group by c.tenant_id, c.agent`

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

func (d *demo) printComparisons(comparisons []comparison) (finding error) {
	var rows []table.Row
	for _, c := range comparisons {
		verdict := "equal"
		if c.left != c.right {
			verdict, finding = "DIFFERENT", errSaid
		}
		rows = append(rows, table.Row{c.what, c.left, c.right, verdict})
	}
	d.t.table(table.Row{"the agents, and Stripe", "", "", ""}, rows, 2, 3)
	return finding
}
