package reporter

import (
	"fmt"
	"testing"
	"time"

	"odometer/reporter/stripetest"
)

// overCustomersSQL makes customers of whom each is over the limit of one agent,
// by 1 to 100 units.
const overCustomersSQL = `
with subscribed as (
    insert into subscriptions (tenant_id, plan_id, status, period_interval, anchor, stripe_customer)
    select gen_random_uuid(), $2, 'active', 'month', date_trunc('day', $3::timestamptz, 'UTC') - interval '5 days', 'cus_' || n
    from generate_series(1, $1::integer) as n
    returning tenant_id, plan_id, anchor, substr(stripe_customer, 5)::integer as n
),
periods as (
    insert into billing_periods (tenant_id, period_start, period_end, plan_id)
    select tenant_id, anchor, anchor + interval '1 month', plan_id
    from subscribed
),
ranked as (
    select agent, row_number() over (order by position) - 1 as rank, count(*) over () as many
    from agents
)
insert into usage_counters (tenant_id, agent, period_start, period_end, count)
select
    s.tenant_id,
    r.agent,
    s.anchor,
    s.anchor + interval '1 month',
    case when r.rank = mod(s.n, r.many) then l."limit" + 1 + mod(s.n, 100) else 0 end
from subscribed s
cross join ranked r
join allowances l on l.plan_id = s.plan_id and l.agent = r.agent`

// BenchmarkPass is one pass over 1,000 customers that are all over a limit, to a
// stand-in that takes 20 ms for an answer. After each pass ledger and Stripe must
// have each unit once. It runs by go test -run ^$ -bench Pass ./reporter alone.
func BenchmarkPass(b *testing.B) {
	const customers = 1000
	var units int64
	for n := 1; n <= customers; n++ {
		units += int64(1 + n%100)
	}
	var took time.Duration
	for b.Loop() {
		b.StopTimer()
		env := newTestEnv(b, func(o *stripetest.Options) { o.Latency = 20 * time.Millisecond })
		for n := range customers {
			env.stripe.CreateCustomer(fmt.Sprintf("cus_%d", n+1), nil)
		}
		env.db.Exec(overCustomersSQL, customers, plan500, begin)
		env.db.Exec("analyze")
		began := time.Now()
		b.StartTimer()
		result := env.report()
		b.StopTimer()
		took += time.Since(began)
		var entries int
		var ledger, metered int64
		env.must(env.db.Pool.QueryRow(b.Context(), `
select count(*), coalesce(sum(to_total - from_total), 0)::bigint
from overage_reports
where state = 'accepted'`).Scan(&entries, &ledger))
		for n := range customers {
			for _, agent := range []string{"inbox", "invoice", "meeting"} {
				metered += env.stripe.Total(fmt.Sprintf("cus_%d", n+1), agent+"_overage", begin.AddDate(-1, 0, 0), begin.AddDate(1, 0, 0))
			}
		}
		if result.Reported != customers || entries != customers || ledger != units || metered != units {
			b.Fatalf("%d customers are over by %d units: the pass reported %d, the ledger has %d entries of %d units, Stripe has %d units",
				customers, units, result.Reported, entries, ledger, metered)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(customers)*float64(b.N)/took.Seconds(), "reports/s")
}
