package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// tellLatency is how long the stand-in takes for an answer.
const tellLatency = 20 * time.Millisecond

// tellAtOnce is how many calls a pass has under way at most.
const tellAtOnce = 32

// passLap is what a reporter has done in one round.
type passLap struct {
	told   int
	took   time.Duration
	effort effort
	peak   int64 // bytes of memory at most, of the reporter alone
}

func (l passLap) rate() float64 { return float64(l.told) / l.took.Seconds() }

// raceReporter measures one pass over customers that are all over a limit,
// against a Stripe that is as far away as the real one.
func (c *benchCmd) raceReporter(ctx context.Context, g *ground, report *benchReport) error {
	sizes := c.reporterSizes()
	laps := make([][]passLap, len(sizes))
	for i, customers := range sizes {
		g.t.Log.Info("making customers", "customers", customers)
		if err := c.tellMany(ctx, g, customers, &laps[i]); err != nil {
			return fmt.Errorf("%d customers: %w", customers, err)
		}
	}
	report.Reporter = reporterTable(sizes, laps)
	return nil
}

// manyCustomers is a size whose pass takes minutes: one round of it is enough.
const manyCustomers = 50_000

func (c *benchCmd) reporterSizes() []int {
	switch {
	case len(c.Customers) > 0:
		return c.Customers
	case c.Full:
		return []int{1000, 10_000, 100_000}
	default:
		return []int{1000, 10_000}
	}
}

// tellMany makes the customers once and lets them be told in each round.
func (c *benchCmd) tellMany(ctx context.Context, g *ground, customers int, laps *[]passLap) (err error) {
	d, err := g.openDatabase(ctx, fmt.Sprintf("told_%d", customers), queryPlan, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.drop(context.WithoutCancel(ctx))) }()
	if err := d.exceed(ctx, customers); err != nil {
		return err
	}
	s, err := g.openStream(ctx, fmt.Sprintf("told-%d", customers))
	if err != nil {
		return err
	}
	defer s.close()
	rounds := c.Rounds
	if customers >= manyCustomers {
		rounds = 1
	}
	for round := range rounds {
		l, err := d.tell(ctx, s, customers)
		if err != nil {
			return err
		}
		*laps = append(*laps, l)
		g.t.Log.Info("reporter", "round", round+1, "customers", customers, "intents_per_second", int(l.rate()), "peak_mib", l.peak>>20)
	}
	return nil
}

// Each customer is over the limit of one agent, by 1 to 100 units.
const exceedSQL = `
with agreed as (
    insert into subscriptions (tenant_id, plan_id, status, period_interval, anchor, stripe_customer)
    select gen_random_uuid(), $2, 'active', 'month', date_trunc('day', now(), 'UTC') - interval '15 days', 'cus_' || n
    from generate_series(1, $1::integer) as n
    returning tenant_id, plan_id, anchor, substr(stripe_customer, 5)::integer as n
),
laid as (
    insert into billing_periods (tenant_id, period_start, period_end, plan_id)
    select tenant_id, anchor, anchor + interval '1 month', plan_id
    from agreed
),
ranked as (
    select agent, row_number() over (order by position) - 1 as rank, count(*) over () as many
    from agents
)
insert into usage_counters (tenant_id, agent, period_start, period_end, count)
select
    g.tenant_id,
    r.agent,
    g.anchor,
    g.anchor + interval '1 month',
    case when r.rank = mod(g.n, r.many) then l."limit" + 1 + mod(g.n, 100) else 0 end
from agreed g
cross join ranked r
join allowances l on l.plan_id = g.plan_id and l.agent = r.agent`

func (d *database) exceed(ctx context.Context, customers int) error {
	if _, err := d.Exec(ctx, exceedSQL, customers, queryPlan); err != nil {
		return fmt.Errorf("make %d customers: %w", customers, err)
	}
	return d.exec(ctx, "vacuum (analyze)")
}

// exceeded is how many units of overage the customers have in all.
func exceeded(customers int) (units int64) {
	for n := 1; n <= customers; n++ {
		units += int64(1 + n%100)
	}
	return units
}

// A ledger that begins anew has another name, and no mirror.
const newLedgerSQL = `
update ledger
set ledger_id = gen_random_uuid(),
    generation = 0`

// tell lets a reporter tell a new Stripe all that there is, in one pass.
func (d *database) tell(ctx context.Context, s *benchStream, customers int) (l passLap, err error) {
	if err := d.exec(ctx, "truncate overage_reports", newLedgerSQL, "checkpoint"); err != nil {
		return passLap{}, err
	}
	stripe, err := d.ground.enter(ctx, contestant{Role: stripeRole, NATSURL: s.server.ClientURL(), Messages: customers})
	if err != nil {
		return passLap{}, err
	}
	defer func() { err = errors.Join(err, stripe.leave()) }()
	url, err := stripe.words.ReadString('\n')
	if err != nil {
		return passLap{}, fmt.Errorf("start the Stripe stand-in: %w", err)
	}
	r, err := d.ground.enter(ctx, contestant{Role: tellRole, DatabaseURL: d.url, NATSURL: s.server.ClientURL()})
	if err != nil {
		return passLap{}, err
	}
	defer func() { err = errors.Join(err, r.leave()) }()
	before, begin := d.ground.effort(r.pid()), time.Now()
	if _, err := r.in.Write([]byte(url)); err != nil {
		return passLap{}, fmt.Errorf("start the pass: %w", err)
	}
	if err := r.expect(doneWord); err != nil {
		return passLap{}, err
	}
	l = passLap{told: customers, took: time.Since(begin), effort: d.ground.effort(r.pid()).minus(before), peak: peakMemory(r.pid())}
	return l, d.verifyTold(ctx, stripe, customers)
}

const toldSQL = `
select count(*), coalesce(sum(to_total - from_total), 0)::bigint
from overage_reports
where state = 'accepted'`

// verifyTold fails unless ledger and Stripe have each unit once.
func (d *database) verifyTold(ctx context.Context, stripe *runner, customers int) error {
	var links int
	var units int64
	if err := d.QueryRow(ctx, toldSQL).Scan(&links, &units); err != nil {
		return fmt.Errorf("read the ledger: %w", err)
	}
	if err := stripe.start(); err != nil { // it says what it has
		return err
	}
	text, err := stripe.words.ReadString('\n')
	if err != nil {
		return fmt.Errorf("ask the Stripe stand-in for its total: %w", err)
	}
	total, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if want := exceeded(customers); err != nil || links != customers || units != want || total != want {
		return fmt.Errorf("%d customers are over by %d units, but the ledger has %d links of %d units and Stripe has %q", customers, want, links, units, text)
	}
	return nil
}
