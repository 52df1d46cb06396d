package query

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/shopspring/decimal"
	"pgregory.net/rapid"

	"odometer"
	"odometer/api"
)

func (b *testEnv) periods(r PeriodsRequest) *Periods {
	b.Helper()
	p, err := ReadPeriods(context.Background(), b.pool, r)
	if err != nil {
		b.Fatal(err)
	}
	return p
}

// past gives the tenant September, closed and settled, and October, which has
// ended; each with terms of its own.
func (b *testEnv) past(tenant uuid.UUID) {
	b.Helper()
	b.exec(`insert into billing_periods (tenant_id, period_start, period_end, plan_id, status, frozen_at, closed_epoch, closed_seq, closed_at, settled_at) values
		($1, '2026-09-01Z', '2026-10-01Z', 'price_gone', 'closed', '2026-10-01Z', 1, 1, '2026-10-01T00:15:00Z', '2026-10-01T00:20:00Z'),
		($1, '2026-10-01Z', '2026-11-01Z', 'price_inboxpilot_monthly', 'open', '2026-11-01Z', null, null, null, null)`, tenant)
	b.exec(`insert into period_totals (tenant_id, agent, period_start, count, "limit", unit_price, overage) values
		($1, 'inbox', '2026-09-01Z', 510, 500, 0.005, 10), ($1, 'left', '2026-09-01Z', 7, null, 1, 0)`, tenant)
	b.exec(`insert into period_allowances (tenant_id, period_start, agent, "limit", unit_price) values
		($1, '2026-09-01Z', 'inbox', 500, 0.005), ($1, '2026-10-01Z', 'inbox', 400, 0.03), ($1, '2026-10-01Z', 'invoice', null, 0.10)`, tenant)
	b.exec(`insert into usage_counters (tenant_id, agent, period_start, period_end, count) values
		($1, 'inbox', '2026-09-01Z', '2026-10-01Z', 999), ($1, 'inbox', '2026-10-01Z', '2026-11-01Z', 403),
		($1, 'invoice', '2026-10-01Z', '2026-11-01Z', 70)`, tenant)
}

func TestEndedPeriodsKeepTheirLimitsAndPrices(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := exampleCustomer(b)
	b.past(tenant)
	b.exec(`insert into billing_periods (tenant_id, period_start, period_end) values ($1, now() + interval '10 years', now() + interval '11 years')`, tenant)
	text, err := json.Marshal(b.periods(PeriodsRequest{Reader: reading(tenant)}))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"tenant_id":"` + tenant.String() + `","as_of":"2026-11-23T07:15:33.120Z","currency":"usd","periods":[` +
		// The running one: what is in force.
		`{"period_start":"2026-11-01T00:00:00Z","period_end":"2026-12-01T00:00:00Z","status":"open","current":true,"trial":false,"plan":{"id":"price_bundle_monthly","name":"FounderPilot Bundle"},"closed_at":null,"settled_at":null,"usage":{` +
		`"inbox":{"count":425,"limit":500,"percentage":85,"overage":0,"unit_price":"0.02","overage_cost_cents":0},` +
		`"invoice":{"count":52,"limit":50,"percentage":104,"overage":2,"unit_price":"0.10","overage_cost_cents":20},` +
		`"meeting":{"count":15,"limit":30,"percentage":50,"overage":0,"unit_price":"0.15","overage_cost_cents":0}},"total_overage_cost_cents":20},` +
		// Ended: its terms are frozen, an agent without any was not included.
		`{"period_start":"2026-10-01T00:00:00Z","period_end":"2026-11-01T00:00:00Z","status":"open","current":false,"trial":false,"plan":{"id":"price_inboxpilot_monthly","name":"InboxPilot"},"closed_at":null,"settled_at":null,"usage":{` +
		`"inbox":{"count":403,"limit":400,"percentage":100,"overage":3,"unit_price":"0.03","overage_cost_cents":9},` +
		`"invoice":{"count":70,"limit":null,"percentage":0,"overage":0,"unit_price":"0.10","overage_cost_cents":0},` +
		`"meeting":{"count":0,"limit":0,"percentage":0,"overage":0,"unit_price":"0.15","overage_cost_cents":0}},"total_overage_cost_cents":9},` +
		// Closed: all is frozen. Its plan and one of its agents have left the catalogue.
		`{"period_start":"2026-09-01T00:00:00Z","period_end":"2026-10-01T00:00:00Z","status":"closed","current":false,"trial":false,"plan":{"id":"price_gone","name":"price_gone"},"closed_at":"2026-10-01T00:15:00Z","settled_at":"2026-10-01T00:20:00Z","usage":{` +
		`"inbox":{"count":510,"limit":500,"percentage":102,"overage":10,"unit_price":"0.005","overage_cost_cents":5},` +
		`"invoice":{"count":0,"limit":0,"percentage":0,"overage":0,"unit_price":"0.10","overage_cost_cents":0},` +
		`"meeting":{"count":0,"limit":0,"percentage":0,"overage":0,"unit_price":"0.15","overage_cost_cents":0},` +
		`"left":{"count":7,"limit":null,"percentage":0,"overage":0,"unit_price":"1","overage_cost_cents":0}},"total_overage_cost_cents":5}],"next_cursor":null}`
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Error(diff)
	}
}

func TestPeriodsArePagedNewestFirst(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := exampleCustomer(b)
	b.past(tenant)
	all := b.periods(PeriodsRequest{Reader: reading(tenant)}).Periods
	var got []Period
	request := PeriodsRequest{Reader: reading(tenant), Limit: 1}
	for range all {
		page := b.periods(request)
		got = append(got, page.Periods...)
		if (page.NextCursor == nil) != (len(got) == len(all)) {
			t.Fatalf("after %d of %d periods, the cursor is %v", len(got), len(all), page.NextCursor)
		}
		if page.NextCursor != nil {
			request.Cursor = *page.NextCursor
		}
	}
	if diff := cmp.Diff(all, got); diff != "" {
		t.Error(diff)
	}
	ask := func(r PeriodsRequest) error {
		_, err := ReadPeriods(context.Background(), b.pool, r)
		return err
	}
	wantRefused(t, ask(PeriodsRequest{Reader: reading(tenant), Cursor: "rubbish"}), ErrInvalid, `cursor is "rubbish"`)
	forged := *api.WriteCursor(instant("0001-01-01T00:00:00Z"), "periods", tenant.String())
	wantRefused(t, ask(PeriodsRequest{Reader: reading(tenant), Cursor: forged}), ErrInvalid, "cursor is")
	wantRefused(t, ask(PeriodsRequest{Reader: reading(exampleCustomer(b)), Cursor: request.Cursor}), ErrInvalid, "cursor is")
	wantRefused(t, ask(PeriodsRequest{Reader: reading(tenant), Limit: 101}), ErrInvalid, "limit is 101: it must be from 1 to 100")
}

// The current period says what GET /api/v1/usage says, and no amount is other
// than its units times their price, rounded once.
func TestCurrentPeriodIsThatOfUsage(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	rapid.Check(t, func(t *rapid.T) {
		status := rapid.SampledFrom([]odometer.Status{odometer.Active, odometer.Trial, odometer.PastDue, odometer.Canceled}).Draw(t, "status")
		plan := rapid.SampledFrom([]string{"", "price_inboxpilot_monthly", "price_bundle_monthly"}).Draw(t, "plan")
		tenant := b.subscribe(status, plan)
		b.period(tenant)
		b.exec(`update agents set unit_price = $1 where agent = 'inbox'`,
			decimal.New(rapid.Int64Range(0, 9999).Draw(t, "price"), -4))
		for _, agent := range []string{"inbox", "invoice", "meeting"} {
			b.count(tenant, agent, rapid.Int64Range(0, 1000).Draw(t, agent))
		}
		if rapid.Bool().Draw(t, "ended") {
			b.exec(`update billing_periods set frozen_at = now() where tenant_id = $1`, tenant)
			b.exec(`insert into period_allowances (tenant_id, period_start, agent, "limit", unit_price)
				select $1, p.period_start, a.agent, case when p.trial or p.plan_id is null then null else 77 end, a.unit_price
				from billing_periods as p, agents as a where p.tenant_id = $1`, tenant)
		}
		want, err := UsageOfAnyStatus(context.Background(), b.pool, tenant)
		if err != nil {
			t.Fatal(err)
		}
		got := b.periods(PeriodsRequest{Reader: Reader{Tenant: tenant, Operator: true}}).Periods[0]
		for i, m := range got.Usage {
			use := m.Value
			as := AgentUsage{use.Count, use.Limit, use.Percentage, use.Overage, use.OverageCostCents}
			if diff := cmp.Diff(want.Usage[i], Member[AgentUsage]{m.Name, as}); diff != "" {
				t.Fatal(diff)
			}
			if cents := odometer.CostCents(use.Overage, decimal.RequireFromString(use.UnitPrice)); cents != use.OverageCostCents {
				t.Fatalf("%d units at %s cost %d, want %d", use.Overage, use.UnitPrice, use.OverageCostCents, cents)
			}
		}
		if got.TotalOverageCostCents != want.TotalOverageCostCents || len(got.Usage) != len(want.Usage) {
			t.Fatalf("total %d of %d agents, want %d of %d", got.TotalOverageCostCents, len(got.Usage), want.TotalOverageCostCents, len(want.Usage))
		}
	})
}

func TestTrialsAreFreeForEver(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := b.subscribe(odometer.Trial, "price_bundle_monthly")
	b.period(tenant)
	b.count(tenant, "inbox", 9000)
	check := func(when string) {
		t.Helper()
		p := b.periods(PeriodsRequest{Reader: reading(tenant)}).Periods
		trial := p[len(p)-1]
		if use := trial.Usage[0].Value; !trial.Trial || use.Count != 9000 || use.Limit != nil || use.OverageCostCents != 0 || trial.TotalOverageCostCents != 0 {
			t.Errorf("%s: %+v", when, trial)
		}
	}
	check("running")
	b.exec(`update subscriptions set status = 'active' where tenant_id = $1`, tenant)
	b.exec(`update billing_periods set frozen_at = now(), period_end = '2026-11-10Z' where tenant_id = $1`, tenant)
	b.exec(`insert into period_allowances (tenant_id, period_start, agent, "limit", unit_price) select $1, '2026-11-01Z', agent, null, unit_price from agents`, tenant)
	b.exec(`insert into billing_periods (tenant_id, period_start, period_end, plan_id) values ($1, '2026-11-10Z', '2026-12-10Z', 'price_bundle_monthly')`, tenant)
	check("ended, a paid one runs")
	b.exec(`update billing_periods set status = 'closed', closed_epoch = 1, closed_seq = 1, closed_at = now() where tenant_id = $1 and trial`, tenant)
	b.exec(`insert into period_totals (tenant_id, agent, period_start, count, "limit", unit_price, overage) select $1, agent, '2026-11-01Z', case agent when 'inbox' then 9000 else 0 end, null, unit_price, 0 from agents`, tenant)
	check("closed")
}
