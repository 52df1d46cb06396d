package query

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"odometer"
)

// The contract's example, with the tenant's id put in.
const example = `{"tenant_id":"TENANT","period_start":"2026-11-01T00:00:00Z","period_end":"2026-12-01T00:00:00Z","as_of":"2026-11-23T07:15:33.120Z",
 "plan":{"id":"price_bundle_monthly","name":"FounderPilot Bundle","limits":{"emails_per_month":500,"invoices_per_month":50,"meetings_per_month":30}},
 "usage":{"inbox":{"count":425,"limit":500,"percentage":85,"overage":0,"overage_cost_cents":0},
          "invoice":{"count":52,"limit":50,"percentage":104,"overage":2,"overage_cost_cents":20},
          "meeting":{"count":15,"limit":30,"percentage":50,"overage":0,"overage_cost_cents":0}},
 "total_overage_cost_cents":20,"currency":"usd",
 "alerts":[{"agent":"inbox","level":"warning","message":"You've used 85% of your email quota this month"},
           {"agent":"invoice","level":"error","message":"You've exceeded your invoice quota. Extra charges: $0.20"}]}`

// exampleCustomer has the counts of the contract's example.
func exampleCustomer(b *testEnv) uuid.UUID {
	tenant := b.customer("price_bundle_monthly")
	b.count(tenant, "inbox", 425)
	b.count(tenant, "invoice", 52)
	b.count(tenant, "meeting", 15)
	return tenant
}

func wantExample(t *testing.T, tenant uuid.UUID, got string) {
	t.Helper()
	var want bytes.Buffer
	if err := json.Compact(&want, []byte(strings.Replace(example, "TENANT", tenant.String(), 1))); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.String(), got); diff != "" {
		t.Error(diff)
	}
}

func TestAnswerIsTheContractsExampleByteForByte(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := exampleCustomer(b)
	text, err := json.Marshal(b.usage(tenant))
	if err != nil {
		t.Fatal(err)
	}
	wantExample(t, tenant, string(text))
}

func TestUsageFollowsFromCountsAndPlan(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	b.exec(`insert into allowances (plan_id, agent, "limit") values ('price_inboxpilot_monthly', 'meeting', null)`)
	b.exec(`update agents set unit_price = 0.005 where agent = 'inbox'`)
	num := func(n int64) *int64 { return &n }
	tests := []struct {
		name, agent string
		count       int64
		want        AgentUsage
		alert       string
	}{
		{"nothing used", "inbox", 0, AgentUsage{0, num(500), 0, 0, 0}, ""},
		{"percentage is rounded down", "inbox", 399, AgentUsage{399, num(500), 79, 0, 0}, ""},
		{"warning from 80 %", "inbox", 400, AgentUsage{400, num(500), 80, 0, 0}, "You've used 80% of your email quota this month"},
		{"99.8 % is not 100 %", "inbox", 499, AgentUsage{499, num(500), 99, 0, 0}, "You've used 99% of your email quota this month"},
		{"at the limit", "inbox", 500, AgentUsage{500, num(500), 100, 0, 0}, "You've reached your email quota"},
		{"half a cent is rounded up", "inbox", 501, AgentUsage{501, num(500), 100, 1, 1}, "You've exceeded your email quota. Extra charges: $0.01"},
		{"a cent and a half too", "inbox", 503, AgentUsage{503, num(500), 100, 3, 2}, "You've exceeded your email quota. Extra charges: $0.02"},
		{"rounded once, not per unit", "inbox", 600, AgentUsage{600, num(500), 120, 100, 50}, "You've exceeded your email quota. Extra charges: $0.50"},
		{"not included, not used", "invoice", 0, AgentUsage{0, num(0), 0, 0, 0}, ""},
		{"not included: the first unit is overage", "invoice", 1, AgentUsage{1, num(0), 100, 1, 10}, "You've exceeded your invoice quota. Extra charges: $0.10"},
		{"not included: 100 % stays", "invoice", 7, AgentUsage{7, num(0), 100, 7, 70}, "You've exceeded your invoice quota. Extra charges: $0.70"},
		{"unlimited", "meeting", 1_000_000, AgentUsage{1_000_000, nil, 0, 0, 0}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			tenant := b.customer("price_inboxpilot_monthly")
			b.count(tenant, test.agent, test.count)
			a := b.usage(tenant)
			if diff := cmp.Diff(test.want, a.agent(t, test.agent)); diff != "" {
				t.Error(diff)
			}
			if a.TotalOverageCostCents != test.want.OverageCostCents {
				t.Errorf("total %d", a.TotalOverageCostCents)
			}
			var alerts []string
			for _, alert := range a.Alerts {
				alerts = append(alerts, alert.Message)
			}
			if got := strings.Join(alerts, "; "); got != test.alert {
				t.Errorf("alerts %q, want %q", got, test.alert)
			}
		})
	}
}

func TestTotalIsTheSumOfWhatIsShown(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	b.exec(`update agents set unit_price = 0.005`)
	tenant := b.customer("price_bundle_monthly")
	for agent, n := range map[string]int64{"inbox": 501, "invoice": 51, "meeting": 31} {
		b.count(tenant, agent, n)
	}
	// Rounded together, three half cents would be two cents.
	if a := b.usage(tenant); a.TotalOverageCostCents != 3 {
		t.Errorf("total %d, want 3", a.TotalOverageCostCents)
	}
}

func TestTrialIsFree(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	check := func(t *testing.T, a *Answer) {
		t.Helper()
		if diff := cmp.Diff(AgentUsage{Count: 9000}, a.agent(t, "inbox")); diff != "" {
			t.Error(diff)
		}
		if a.TotalOverageCostCents != 0 || len(a.Alerts) != 0 {
			t.Errorf("costs %d, alerts %v", a.TotalOverageCostCents, a.Alerts)
		}
	}
	on := func(plan string) uuid.UUID {
		tenant := b.subscribe(odometer.Trial, plan)
		b.period(tenant)
		b.count(tenant, "inbox", 9000)
		return tenant
	}
	t.Run("without a plan", func(t *testing.T) {
		t.Parallel()
		a := b.usage(on(""))
		check(t, a)
		if text, _ := json.Marshal(a); !strings.Contains(string(text), `"plan":null`) || !strings.Contains(string(text), `"alerts":[]`) {
			t.Errorf("%s", text)
		}
	})
	t.Run("with a plan, whose limits are shown", func(t *testing.T) {
		t.Parallel()
		a := b.usage(on("price_bundle_monthly"))
		check(t, a)
		if text, _ := json.Marshal(a.Plan); string(text) != `{"id":"price_bundle_monthly","name":"FounderPilot Bundle","limits":{"emails_per_month":500,"invoices_per_month":50,"meetings_per_month":30}}` {
			t.Errorf("plan %s", text)
		}
	})
	t.Run("its period stays free when it was frozen", func(t *testing.T) {
		t.Parallel()
		tenant := on("price_bundle_monthly")
		b.exec(`update billing_periods set frozen_at = now() where tenant_id = $1`, tenant)
		b.exec(`insert into period_allowances (tenant_id, period_start, agent, "limit", unit_price)
			select $1, '2026-11-01Z', agent, null, unit_price from agents`, tenant)
		a := b.usage(tenant)
		check(t, a)
		if limit := a.Plan.Limits[0].Value; limit == nil || *limit != 500 {
			t.Errorf("limit %v, want the plan's 500", limit)
		}
	})
	t.Run("when the subscription is paid but the period began as a trial", func(t *testing.T) {
		t.Parallel()
		tenant := on("price_bundle_monthly")
		b.exec(`update subscriptions set status = 'active' where tenant_id = $1`, tenant)
		check(t, b.usage(tenant))
	})
}

func TestTrialIsOverAtItsEndBeforeItsRowSaysSo(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	overdue := func(plan string) uuid.UUID {
		tenant := b.subscribe(odometer.Trial, plan)
		b.exec(`update subscriptions set trial_ends_at = now() - interval '1 second' where tenant_id = $1`, tenant)
		b.exec(`insert into billing_periods (tenant_id, period_start, period_end, plan_id)
			values ($1, '2026-11-01Z', '2026-12-01Z', nullif($2, ''))`, tenant, plan)
		b.count(tenant, "inbox", 501)
		return tenant
	}
	if a := b.usage(overdue("price_bundle_monthly")); a.agent(t, "inbox").Overage != 1 {
		t.Errorf("paid period after a trial: %+v", a.agent(t, "inbox"))
	}
	_, err := Usage(context.Background(), b.pool, overdue(""))
	if !errors.Is(err, ErrInactive) || !strings.Contains(err.Error(), "expired") {
		t.Errorf("trial without a plan after its end: %v", err)
	}
}

func TestFrozenPeriodKeepsItsLimitsAndPrices(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := exampleCustomer(b)
	b.exec(`update billing_periods set frozen_at = now() where tenant_id = $1`, tenant)
	b.exec(`insert into period_allowances (tenant_id, period_start, agent, "limit", unit_price) values
		($1, '2026-11-01Z', 'inbox', 400, 0.03), ($1, '2026-11-01Z', 'invoice', null, 0.10)`, tenant)
	b.exec(`update allowances set "limit" = 9999`)
	a := b.usage(tenant)
	limit := func(n int64) *int64 { return &n }
	want := Ordered[AgentUsage]{
		{"inbox", AgentUsage{425, limit(400), 106, 25, 75}},
		{"invoice", AgentUsage{52, nil, 0, 0, 0}},
		{"meeting", AgentUsage{15, limit(0), 100, 15, 225}}, // came to the catalogue later
	}
	if diff := cmp.Diff(want, a.Usage); diff != "" {
		t.Error(diff)
	}
}

func TestCatalogueActsOnTheRunningPeriod(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := exampleCustomer(b)
	b.exec(`update allowances set "limit" = 400 where agent = 'inbox'`)
	b.exec(`update agents set unit_price = 1 where agent = 'inbox'`)
	if use := b.usage(tenant).agent(t, "inbox"); use.Overage != 25 || use.OverageCostCents != 2500 {
		t.Errorf("%+v", use)
	}
}

func TestPeriodIsTheNewestThatHasBegun(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := b.subscribe(odometer.Active, "price_bundle_monthly")
	b.exec(`insert into billing_periods (tenant_id, period_start, period_end, plan_id)
		select $1, now() + n * interval '1 day', now() + (n + 1) * interval '1 day', 'price_bundle_monthly'
		from generate_series(-2, 1) as n`, tenant)
	b.exec(`insert into usage_counters (tenant_id, agent, period_start, period_end, count)
		select tenant_id, 'inbox', period_start, period_end, 1 + row_number() over (order by period_start)
		from billing_periods where tenant_id = $1`, tenant)
	// The third period began in the instant in which it was written.
	a := b.usage(tenant)
	if use := a.agent(t, "inbox"); use.Count != 4 {
		t.Errorf("count %d, want that of the period that began just now", use.Count)
	}
	if now := time.Now(); a.PeriodStart.After(now) || !a.PeriodEnd.After(now) {
		t.Errorf("period [%s, %s)", a.PeriodStart, a.PeriodEnd)
	}
}

func TestEmptyCatalogueIsAnAnswer(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := b.subscribe(odometer.Trial, "")
	b.period(tenant)
	b.exec(`truncate catalogue, agents cascade`)
	text, err := json.Marshal(b.usage(tenant))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(string(text), `"plan":null,"usage":{},"total_overage_cost_cents":0,"currency":"usd","alerts":[]}`) {
		t.Errorf("%s", text)
	}
}

func TestTenantsDoNotSeeEachOther(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	exampleCustomer(b)
	other := b.customer("price_inboxpilot_monthly")
	for _, use := range b.usage(other).Usage {
		if use.Value.Count != 0 {
			t.Errorf("%s: %+v", use.Name, use.Value)
		}
	}
}

func TestRefusalsFollowTheContractsOrder(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	b.exec(`update stream_positions set complete_until = null`)
	refusal := func(tenant uuid.UUID, cause error, says string) {
		t.Helper()
		_, err := Usage(context.Background(), b.pool, tenant)
		if !errors.Is(err, cause) || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want %v with %q", err, cause, says)
		}
	}
	// Each tenant lacks all that comes later, too.
	refusal(uuid.New(), ErrNoSubscription, "no subscription")
	for _, status := range []odometer.Status{odometer.PastDue, odometer.Canceled, odometer.Expired} {
		refusal(b.subscribe(status, ""), ErrInactive, string(status))
	}
	unbegun := b.subscribe(odometer.Active, "")
	refusal(unbegun, ErrNotBegun, "no billing period")
	b.exec(`insert into billing_periods (tenant_id, period_start, period_end) values ($1, '2126-01-01Z', '2126-02-01Z')`, unbegun)
	refusal(unbegun, ErrNotBegun, "2126-01-01T00:00:00Z")
	refusal(b.customer(""), ErrNoPlan, "no plan")
	refusal(b.customer("price_bundle_monthly"), ErrNotRead, "not known yet")
}

func TestUnknownFreshnessIsNeverZero(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := b.customer("price_bundle_monthly")
	own := odometer.PartitionOf(tenant, partitions)
	b.exec(`update stream_positions set complete_until = null where partition <> $1`, own)
	if a := b.usage(tenant); a.AsOf.String() != "2026-11-23T07:15:33.120Z" {
		t.Errorf("as of %s: another partition matters", a.AsOf)
	}
	unknown := func() {
		t.Helper()
		if _, err := Usage(context.Background(), b.pool, tenant); !errors.Is(err, ErrNotRead) {
			t.Errorf("got %v, want %v", err, ErrNotRead)
		}
	}
	b.exec(`update stream_positions set complete_until = case when partition <> $1 then now() end`, own)
	unknown()
	b.exec(`delete from stream_positions`)
	unknown()
}

func TestOldFreshnessIsStillAnAnswer(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := b.customer("price_bundle_monthly")
	b.exec(`update stream_positions set complete_until = '2026-11-01T00:00:00.0009Z'`)
	if a := b.usage(tenant); a.AsOf.String() != "2026-11-01T00:00:00.000Z" {
		t.Errorf("as of %s", a.AsOf)
	}
}
