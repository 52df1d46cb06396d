package demo

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jedib0t/go-pretty/v6/table"

	"odometer"
	"odometer/cmd/internal/app"
	"odometer/cmd/internal/cli"
	"odometer/ingest"
)

// catchUpTime is how long the aggregator may take to catch up with the stream.
const catchUpTime = 30 * time.Second

// check waits until the stream is read to its end, compares what is counted with it
// and with what was acknowledged to the agents, and prints what it found. The
// finding is nil when all is equal.
func (d *demo) check(ctx context.Context, agents *agents, before map[counterKey]counterUnits) (finding, err error) {
	ctx, cancel := context.WithTimeout(ctx, catchUpTime+10*time.Second)
	defer cancel()
	stream, err := cli.JetStream(d.nats).Stream(ctx, ingest.StreamName)
	if err != nil {
		return nil, fmt.Errorf("read the state of the stream: %w", err)
	}
	state := stream.CachedInfo().State
	if err := d.waitUntilRead(ctx, int64(state.LastSeq)); err != nil {
		return nil, err
	}
	acknowledged, others, err := d.compareAcknowledged(ctx, agents.acknowledged, before)
	if err != nil {
		return nil, err
	}
	stripe, err := d.compareStripe(ctx)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(d.terminal.Out, "\n%s\n\n", d.usageTable(ctx))
	finding = d.printComparisons(append(acknowledged, stripe...), others)
	report, err := d.audit(ctx)
	if err != nil {
		return nil, err
	}
	fmt.Fprintln(d.terminal.Out)
	app.PrintAudit(d.terminal, report)
	if report.Different > 0 {
		finding = cli.ErrFindings
	}
	d.printInvoices()
	return finding, nil
}

// waitFor waits until done, or returns what it still lacks after catchUpTime.
func (d *demo) waitFor(ctx context.Context, done func() (done bool, lacks string, err error)) error {
	for deadline := time.Now().Add(catchUpTime); ; {
		ok, lacks, err := done()
		switch {
		case err != nil || ok:
			return err
		case time.Now().After(deadline):
			return fmt.Errorf("%s after %s: see %s/odometer.log", lacks, catchUpTime, d.dir)
		}
		if err := odometer.Sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// waitUntilRead waits until every partition is read through the last message.
func (d *demo) waitUntilRead(ctx context.Context, last int64) error {
	return d.waitFor(ctx, func() (bool, string, error) {
		var through int64
		if err := d.pool.QueryRow(ctx, `select coalesce(min(seq), 0) from stream_positions`).Scan(&through); err != nil {
			return false, "", fmt.Errorf("read the positions: %w", err)
		}
		return through >= last, fmt.Sprintf("the stream ends at %d but is read only through %d", last, through), nil
	})
}

// comparison is two figures that must be the same.
type comparison struct {
	what        string
	left, right int64
}

func (c comparison) differs() bool { return c.left != c.right }

// counterUnits is what a counter holds of the agents' own events, and of everybody
// else's: whoever tries the demo may publish to it, and correct it.
type counterUnits struct {
	own, others int64
}

// The agents' own is what remains of the counter itself when everything else is
// taken off, so that also a unit that no event accounts for differs from their
// notes. What retention removed was of an earlier run.
const countsSQL = `
with others as (
    select
        tenant_id,
        agent,
        sum(quantity) as units,
        coalesce(sum(quantity) filter (where kind = 'usage'), 0) as published
    from usage_events
    where kind <> 'usage' or not starts_with(idempotency_key, $1)
    group by tenant_id, agent
), removed as (
    select tenant_id, agent, sum(quantity) as units
    from usage_removed
    group by tenant_id, agent
)
select
    c.tenant_id,
    c.agent,
    (sum(c.count) - coalesce(min(o.units), 0) - coalesce(min(r.units), 0))::bigint,
    coalesce(min(o.published), 0)::bigint
from usage_counters c
left join others o using (tenant_id, agent)
left join removed r using (tenant_id, agent)
group by c.tenant_id, c.agent`

func loadCounts(ctx context.Context, pool *pgxpool.Pool, keys *runKeys) (map[counterKey]counterUnits, error) {
	counts := map[counterKey]counterUnits{}
	rows, _ := pool.Query(ctx, countsSQL, keys.prefix)
	var key counterKey
	var count counterUnits
	_, err := pgx.ForEachRow(rows, []any{&key.tenant, &key.agent, &count.own, &count.others}, func() error {
		counts[key] = count
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the counters: %w", err)
	}
	return counts, nil
}

// compareAcknowledged checks the counters against the agents' own notes. The
// others' units are what somebody else had counted meanwhile.
func (d *demo) compareAcknowledged(ctx context.Context, acknowledged map[counterKey]int64, before map[counterKey]counterUnits) (found []comparison, others int64, err error) {
	after, err := loadCounts(ctx, d.pool, d.keys)
	if err != nil {
		return nil, 0, err
	}
	var expected, counted, differ int64
	for key, count := range after {
		others += count.others - before[key].others
		counted += count.own - before[key].own
		if count.own-before[key].own != acknowledged[key] {
			differ++
		}
	}
	for key, units := range acknowledged {
		expected += units
		if _, there := after[key]; !there && units > 0 {
			differ++
		}
	}
	return []comparison{
		{"units acknowledged to the agents = units counted", expected, counted},
		{"counters that differ from the agents' notes = 0", differ, 0},
	}, others, nil
}

func (d *demo) printComparisons(comparisons []comparison, others int64) (finding error) {
	var rows []table.Row
	for _, c := range comparisons {
		verdict := "equal"
		if c.differs() {
			verdict, finding = "DIFFERENT", cli.ErrFindings
		}
		rows = append(rows, table.Row{c.what, c.left, c.right, verdict})
	}
	if others != 0 {
		rows = append(rows, table.Row{"units counted that others published", others, "", ""})
	}
	d.terminal.Table(table.Row{"the agents, and Stripe", "", "", ""}, rows, 2, 3)
	return finding
}
