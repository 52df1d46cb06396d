package query

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"
	"github.com/shopspring/decimal"

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

// UsageOf is the usage of an agent from its count, limit and price.
func UsageOf(count int64, limit *int64, unitPrice decimal.Decimal) AgentUsage {
	over := odometer.Overage(count, limit)
	return AgentUsage{
		Count: count, Limit: limit, Percentage: odometer.Percentage(count, limit),
		Overage: over, OverageCostCents: odometer.CostCents(over, unitPrice),
	}
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
// answer never claims more than is known.
type Instant struct{ time.Time }

// String is the instant as answers show it: 2026-11-23T07:15:33.120Z.
func (i Instant) String() string {
	// A layout with .000 cuts off what it does not show, which is rounding down.
	return i.UTC().Format("2006-01-02T15:04:05.000Z07:00")
}

// MarshalJSON writes the string in quotes.
func (i Instant) MarshalJSON() ([]byte, error) { return json.Marshal(i.String()) }

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

// etag is a weak entity tag over everything of an answer but as_of: a poll that
// finds nothing new costs no body, and gets the new as_of in a header.
func etag(a *Answer) (string, error) {
	content := *a
	content.AsOf = Instant{}
	text, err := json.Marshal(&content)
	if err != nil {
		return "", fmt.Errorf("tag of the answer for tenant %s: %w", a.TenantID, err)
	}
	sum := sha256.Sum256(text)
	return `W/"` + base64.RawURLEncoding.EncodeToString(sum[:16]) + `"`, nil
}

// matches reports whether the lines of an If-None-Match header name the tag,
// by weak comparison (RFC 9110, 13.1.2). A malformed list counts as
// far as it can be read.
func matches(lines []string, tag string) bool {
	opaque := strings.TrimPrefix(tag, "W/")
	rest := strings.Join(lines, ",")
	for {
		rest = strings.TrimLeft(rest, " \t,")
		if strings.HasPrefix(rest, "*") {
			return true
		}
		rest = strings.TrimPrefix(rest, "W/")
		// A tag may hold commas: it ends with its quote.
		if !strings.HasPrefix(rest, `"`) {
			return false
		}
		end := strings.IndexByte(rest[1:], '"')
		if end < 0 {
			return false
		}
		if rest[:end+2] == opaque {
			return true
		}
		rest = rest[end+2:]
	}
}

// preferred is the offered media type with the highest weight in the lines of an
// Accept header (RFC 9110, 12.5.1). Among equals the one that is named most
// exactly wins, then the first. Where none is accepted it is the first: an
// answer of another type is more useful than an error.
func preferred(lines []string, offered ...string) string {
	best, highest, closest := offered[0], 0.0, 0
	for _, media := range offered {
		q, specific := quality(lines, media)
		if q > highest || q == highest && q > 0 && specific > closest {
			best, highest, closest = media, q, specific
		}
	}
	return best
}

// quality is the weight of a media type by the most specific range that matches
// it, and how specific that is. Parameters of ranges do not matter for the types
// that are offered here.
func quality(lines []string, media string) (q float64, specific int) {
	general, _, _ := strings.Cut(media, "/")
	for element := range strings.SplitSeq(strings.Join(lines, ","), ",") {
		name, parameters, _ := strings.Cut(element, ";")
		how := 0
		switch strings.ToLower(strings.TrimSpace(name)) {
		case media:
			how = 3
		case general + "/*":
			how = 2
		case "*/*":
			how = 1
		}
		if weight, ok := weightOf(parameters); ok && how > 0 && (how > specific || how == specific && weight > q) {
			specific, q = how, weight
		}
	}
	return q, specific
}

// weightOf is the weight among a range's parameters, 1 when there is none.
func weightOf(parameters string) (q float64, ok bool) {
	for parameter := range strings.SplitSeq(parameters, ";") {
		name, value, _ := strings.Cut(parameter, "=")
		if strings.EqualFold(strings.TrimSpace(name), "q") {
			q, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			return q, err == nil && q >= 0 && q <= 1
		}
	}
	return 1, true
}
