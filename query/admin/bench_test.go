package admin

import (
	"testing"
)

// Each tenant has a year of months with three counters each, all but the last
// frozen. The small tables have no statistics, as in life.
const manyTenantsSQL = `
insert into subscriptions (tenant_id, plan_id, status, period_interval, anchor, stripe_customer)
select gen_random_uuid(), 'bundle', 'active', 'month', now() - interval '1 year', 'cus_' || n
from generate_series(1, $1::integer) n`

var manyPeriodsSQL = []string{
	`insert into billing_periods (tenant_id, period_start, period_end, plan_id, frozen_at)
		select tenant_id, now() - m * interval '30 days', now() - (m - 1) * interval '30 days', plan_id, case when m > 1 then now() end
		from subscriptions, generate_series(1, 12) m`,
	`insert into period_allowances (tenant_id, period_start, agent, "limit", unit_price)
		select p.tenant_id, p.period_start, a.agent, 100, 0.1
		from billing_periods p, agents a where p.frozen_at is not null`,
	`insert into usage_counters (tenant_id, agent, period_start, period_end, count)
		select tenant_id, agent, period_start, period_end, random() * 600
		from billing_periods, agents`,
	`analyze subscriptions, billing_periods, usage_counters, period_allowances`,
}

func manyTenants(b *testEnv, n int) {
	b.Helper()
	b.exec(manyTenantsSQL, n)
	for _, sql := range manyPeriodsSQL {
		b.exec(sql)
	}
}

// BenchmarkTenants measures a page of 50 among 10,000 tenants in each order.
func BenchmarkTenants(b *testing.B) {
	env := newTestEnv(b)
	manyTenants(env, 10_000)
	for _, f := range []tenantFilter{
		{Sort: byOverage}, {Sort: byUsage}, {Sort: byTenant}, {Sort: byOverage, Search: "cus_99"}, {Sort: byOverage, Search: "a1"},
		{Sort: byOverage, Status: "active", Limit: 200},
	} {
		f.Limit = max(f.Limit, 50)
		b.Run(f.Sort+" "+f.Search+f.Status, func(b *testing.B) {
			for b.Loop() {
				get[*TenantList](b)(listTenants(b.Context(), env.pool, f))
			}
		})
	}
}

// BenchmarkOverview measures its parts over three million batches.
func BenchmarkOverview(b *testing.B) {
	env := newTestEnv(b)
	manyTenants(env, 10_000)
	env.exec(`insert into batches (partition, stream_epoch, from_seq, to_seq, messages, events, duplicates, dead, units, committed_at)
		select n % 4, 1, n, n, 5, 3, 1, 1, 3, now() - (3000000 - n) * interval '2 milliseconds' from generate_series(1, 3000000) n`)
	env.exec(`analyze batches`)
	s := newServer(Options{Pool: env.pool})
	b.Run("first total", func(b *testing.B) {
		for b.Loop() {
			get[*Totals](b)((&batchTotals{}).sum(b.Context(), env.pool, batchesAtOnce))
		}
	})
	b.Run("next total", func(b *testing.B) {
		for b.Loop() {
			get[*Totals](b)(s.totals.sum(b.Context(), env.pool, batchesAtOnce))
		}
	})
	b.Run("figures", func(b *testing.B) {
		for b.Loop() {
			if err := (&Overview{}).loadFigures(b.Context(), env.pool); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("tenantTotals", func(b *testing.B) {
		for b.Loop() {
			get[tenantTotals](b)(loadTenantTotals(b.Context(), env.pool))
		}
	})
	b.Run("whole", func(b *testing.B) {
		for b.Loop() {
			get[*Overview](b)(s.loadOverview(b.Context()))
		}
	})
}

// BenchmarkLedger measures a page of a ledger of 900,000 links.
func BenchmarkLedger(b *testing.B) {
	env := newTestEnv(b)
	env.exec(`insert into overage_reports (tenant_id, agent, period_start, billed_period_start, revision, from_total, to_total, value,
			sink, account, livemode, stripe_customer, meter, reported_at, identifier, generation, state, created_at)
		select md5((n / 30)::text)::uuid, 'inbox', now(), now(), n % 30, n, n + 1, 1,
			'meter_events', 'acct', false, 'cus_' || n / 30, 'inbox_overage', now(), 'odo_' || md5(n::text) || '01234567890', 1, 'verified',
			now() - n * interval '1 second'
		from generate_series(1, 900000) n`)
	env.exec(`analyze overage_reports`)
	for name, f := range map[string]ledgerFilter{
		"all": {}, "state": {State: "unknown"}, "tenant": {TenantID: "c4ca4238-a0b9-2382-0dcc-509a6f75849b"},
	} {
		f.Limit = 100
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				l := get[*Ledger](b)(loadLedger(b.Context(), env.pool, f))
				if f.State == "" && len(l.Links) == 0 {
					b.Fatal("no links")
				}
			}
		})
	}
}
