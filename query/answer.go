package query

import (
	"bytes"
	"encoding/json"
	"time"

	"github.com/google/uuid"

	"odometer"
)

// Answer is a tenant's usage in its current billing period. It encodes to the
// JSON of GET /api/v1/usage.
type Answer struct {
	TenantID              uuid.UUID           `json:"tenant_id"`
	PeriodStart           time.Time           `json:"period_start"` // UTC
	PeriodEnd             time.Time           `json:"period_end"`   // UTC, exclusive
	AsOf                  Instant             `json:"as_of"`        // every event stored up to then is counted
	Plan                  *Plan               `json:"plan"`         // nil for a trial without one
	Usage                 Ordered[AgentUsage] `json:"usage"`        // by agent, in the catalogue's order
	TotalOverageCostCents int64               `json:"total_overage_cost_cents"`
	Currency              string              `json:"currency"` // ISO 4217, lower case
	Alerts                []odometer.Alert    `json:"alerts"`   // in the catalogue's order, never nil
}

// Plan is what the tenant subscribes to. Limits are units per period by the
// agents' limit keys, in the catalogue's order: 0 is not included, nil is
// unlimited.
type Plan struct {
	ID     string          `json:"id"`
	Name   string          `json:"name"`
	Limits Ordered[*int64] `json:"limits"`
}

// AgentUsage is one agent's count in the period, in units, and what it means.
// Limit is nil where nothing limits it: in a trial, or without limit in the plan.
type AgentUsage struct {
	Count            int64  `json:"count"`
	Limit            *int64 `json:"limit"`
	Percentage       int64  `json:"percentage"` // rounded down
	Overage          int64  `json:"overage"`    // units
	OverageCostCents int64  `json:"overage_cost_cents"`
}

// Ordered is a JSON object whose members keep their order.
type Ordered[V any] []Member[V]

// Member is one name of an object and its value.
type Member[V any] struct {
	Name  string
	Value V
}

// MarshalJSON writes the object; no members is {}, not null.
func (o Ordered[V]) MarshalJSON() ([]byte, error) {
	var buf bytes.Buffer
	buf.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			buf.WriteByte(',')
		}
		name, err := json.Marshal(m.Name)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(m.Value)
		if err != nil {
			return nil, err
		}
		buf.Write(name)
		buf.WriteByte(':')
		buf.Write(value)
	}
	buf.WriteByte('}')
	return buf.Bytes(), nil
}

// Instant is a time that is written in UTC with milliseconds, rounded down: an
// answer never claims to know more than it does.
type Instant struct{ time.Time }

// String is the instant as answers show it: 2026-11-23T07:15:33.120Z.
func (i Instant) String() string {
	// A layout with .000 cuts off what it does not show, which is rounding down.
	return i.UTC().Format("2006-01-02T15:04:05.000Z07:00")
}

// MarshalJSON writes the string in quotes.
func (i Instant) MarshalJSON() ([]byte, error) { return json.Marshal(i.String()) }
