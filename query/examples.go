package query

import (
	"time"

	"github.com/google/uuid"

	"odometer"
)

// exampleTenant is the tenant of the documentation's examples.
var exampleTenant = uuid.MustParse("0b7e4d1c-6f0e-4a53-9d55-3c1c0a3f7e01")

// Times of the documentation's examples.
var (
	exampleStart = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	exampleEnd   = time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	exampleAsOf  = Instant{time.Date(2026, 11, 23, 7, 15, 33, 120e6, time.UTC)}
)

// exampleAnswer is the contract's example of a tenant's usage.
func exampleAnswer() *Answer {
	limit := func(n int64) *int64 { return &n }
	return &Answer{
		TenantID: exampleTenant, PeriodStart: exampleStart, PeriodEnd: exampleEnd, AsOf: exampleAsOf,
		Plan: &Plan{ID: "price_bundle_monthly", Name: "FounderPilot Bundle", Limits: Ordered[*int64]{
			{"emails_per_month", limit(500)}, {"invoices_per_month", limit(50)}, {"meetings_per_month", limit(30)},
		}},
		Usage: Ordered[AgentUsage]{
			{"inbox", AgentUsage{Count: 425, Limit: limit(500), Percentage: 85}},
			{"invoice", AgentUsage{Count: 52, Limit: limit(50), Percentage: 104, Overage: 2, OverageCostCents: 20}},
			{"meeting", AgentUsage{Count: 15, Limit: limit(30), Percentage: 50}},
		},
		TotalOverageCostCents: 20, Currency: "usd",
		Alerts: []odometer.Alert{
			{Agent: "inbox", Level: odometer.LevelWarning, Message: "You've used 85% of your email quota this month"},
			{Agent: "invoice", Level: odometer.LevelError, Message: "You've exceeded your invoice quota. Extra charges: $0.20"},
		},
	}
}

func exampleHistory() *History {
	day := func(n int) time.Time { return exampleStart.AddDate(0, 0, n) }
	return &History{
		TenantID: exampleTenant, From: day(0), To: day(2), Window: ByDay, Timezone: "UTC", GroupBy: []string{ByAgent, ByAction}, AsOf: exampleAsOf,
		Buckets: []Bucket{
			{Start: day(0), End: day(1), Quantity: 14, Events: 13, Groups: []Group{
				{Agent: "inbox", ActionType: "email_processed", Quantity: 12, Events: 12},
				{Agent: "invoice", ActionType: "invoice_created", Quantity: 2, Events: 1},
			}},
			{Start: day(1), End: day(2), Groups: []Group{}},
		},
	}
}

func exampleForecast() *Forecast {
	limit := func(n int64) *int64 { return &n }
	f := &Forecast{
		TenantID: exampleTenant, PeriodStart: exampleStart, PeriodEnd: exampleEnd, AsOf: exampleAsOf, Currency: "usd",
		Usage: Ordered[AgentForecast]{
			{"inbox", forecast(pace{425, exampleStart, exampleAsOf.Time, exampleEnd}, limit(500))},
			{"invoice", forecast(pace{52, exampleStart, exampleAsOf.Time, exampleEnd}, limit(50))},
			{"meeting", forecast(pace{15, exampleStart, exampleAsOf.Time, exampleEnd}, limit(30))},
		},
	}
	total := int64(0)
	for i, price := range []int64{2, 10, 15} {
		use := &f.Usage[i].Value
		cents := *use.ProjectedOverage * price
		use.ProjectedOverageCostCents = &cents
		total += cents
	}
	f.ProjectedOverageCostCents = &total
	return f
}

func examplePeriods() *Periods {
	limit := func(n int64) *int64 { return &n }
	plan := &PeriodPlan{"price_bundle_monthly", "FounderPilot Bundle"}
	closed, settled := exampleStart.Add(15*time.Minute), exampleStart.Add(26*time.Minute)
	return &Periods{
		TenantID: exampleTenant, AsOf: exampleAsOf, Currency: "usd",
		Periods: []Period{
			{
				PeriodStart: exampleStart, PeriodEnd: exampleEnd, Status: "open", Current: true, Plan: plan,
				Usage: Ordered[PeriodUsage]{{"inbox", PeriodUsage{Count: 425, Limit: limit(500), Percentage: 85, UnitPrice: "0.02"}}},
			},
			{
				PeriodStart: exampleStart.AddDate(0, -1, 0), PeriodEnd: exampleStart, Status: "closed", Plan: plan, ClosedAt: &closed, SettledAt: &settled,
				Usage:                 Ordered[PeriodUsage]{{"inbox", PeriodUsage{Count: 510, Limit: limit(500), Percentage: 102, Overage: 10, UnitPrice: "0.02", OverageCostCents: 20}}},
				TotalOverageCostCents: 20,
			},
		},
	}
}

func exampleAlerts() *Alerts {
	raised := exampleStart.AddDate(0, 0, 20).Add(9 * time.Hour)
	return &Alerts{
		TenantID: exampleTenant, PeriodStart: exampleStart, PeriodEnd: exampleEnd, AsOf: exampleAsOf,
		Alerts: []AlertNow{{
			Agent: "inbox", Level: odometer.LevelWarning, Message: "You've used 85% of your email quota this month",
			Percentage: 85, Count: 425, Limit: 500, RaisedAt: &raised,
		}},
		Raised: []AlertRaised{{
			Agent: "inbox", Level: odometer.LevelWarning, Threshold: odometer.WarningPercent, Limit: 500, Count: 401,
			PeriodStart: exampleStart, RaisedAt: raised,
		}},
	}
}

func exampleEvents() *Events {
	resource, at := "msg-4711", time.Date(2026, 11, 23, 7, 15, 30, 251_000_000, time.UTC)
	l := list{tenant: exampleTenant, from: exampleStart.AddDate(0, 0, -8), to: exampleStart.AddDate(0, 0, 23)}
	events := []Event{{
		EventID: uuid.MustParse("234bc095-7256-f1c7-9fc4-3b4aca9c1841"), Agent: "inbox", Kind: odometer.Usage, ActionType: "email_processed",
		ResourceID: &resource, Quantity: 1, IdempotencyKey: "run-42/msg-4711", Metadata: `{"model": "small", "tokens": 812}`,
		OccurredAt: at, RecordedAt: at.Add(37 * time.Millisecond), PeriodStart: exampleStart,
	}}
	return &Events{
		TenantID: exampleTenant, From: l.from, To: l.to, AsOf: exampleAsOf,
		Events: events, NextCursor: l.cursor(&events[0]),
	}
}
