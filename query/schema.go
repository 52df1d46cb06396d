package query

import (
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"odometer"
)

// Schema describes an Ordered object: members of one type under any name.
func (o Ordered[V]) Schema(r huma.Registry) *huma.Schema {
	return &huma.Schema{
		Type:                 huma.TypeObject,
		Description:          "By name, in the catalogue's order.",
		AdditionalProperties: r.Schema(reflect.TypeFor[V](), true, "Value"),
	}
}

// Schema describes an Instant: a time of RFC 3339.
func (Instant) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Format: "date-time", Description: "Every valid event that the stream stored up to then is in the answer."}
}

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
