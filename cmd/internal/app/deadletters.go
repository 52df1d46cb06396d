package app

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"odometer"
	"odometer/aggregator/deadletter"
	"odometer/cmd/internal/cli"
)

// Printable is a payload without control characters, which could disturb a terminal.
func Printable(payload []byte) string {
	var indented bytes.Buffer
	if utf8.Valid(payload) && json.Indent(&indented, payload, "", "  ") == nil {
		payload = indented.Bytes()
	}
	var out strings.Builder
	for len(payload) > 0 {
		r, size := utf8.DecodeRune(payload)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&out, `\x%02x`, payload[0])
		case r < ' ' && r != '\n' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0:
			fmt.Fprintf(&out, `\u%04x`, r)
		default:
			out.WriteRune(r)
		}
		payload = payload[size:]
	}
	return out.String()
}

// offending is the field that a reason is about, by the names of an event and
// of a CloudEvent.
func offending(reason odometer.Reason, detail string) []string {
	switch reason {
	case odometer.InvalidField, odometer.SubjectMismatch:
		field, _, _ := strings.Cut(detail, " ")
		return []string{field}
	case odometer.UnknownAgent:
		return []string{"agent"}
	case odometer.UnknownAction:
		return []string{"action_type", "type"}
	case odometer.TooOld, odometer.InFuture, odometer.NoBillingPeriod:
		return []string{"occurred_at", "time"}
	case odometer.IdempotencyConflict:
		return []string{"idempotency_key", "id"}
	case odometer.NegativeBalance:
		return []string{"quantity"}
	}
	return []string{"payload"}
}

// fieldOf finds the wrong field and its value in the payload.
func fieldOf(l *deadletter.DeadLetter) (name, value string) {
	var members map[string]json.RawMessage
	_ = json.Unmarshal(l.Payload, &members) // what is no object has no fields
	names := offending(l.Reason, l.Detail)
	for _, name := range names {
		if raw, ok := members[name]; ok {
			return name, Printable(raw)
		}
	}
	var data map[string]json.RawMessage
	_ = json.Unmarshal(members["data"], &data)
	if raw, ok := data[names[0]]; ok {
		return "data." + names[0], Printable(raw)
	}
	return names[0], ""
}

// DeadLetterRow is a dead letter as JSON.
type DeadLetterRow struct {
	ID        string              `json:"id"`
	State     string              `json:"state"`
	Reason    odometer.Reason     `json:"reason"`
	Detail    string              `json:"detail"`
	Field     string              `json:"field,omitempty"`
	Value     string              `json:"value,omitempty"`
	Already   bool                `json:"already,omitempty"` // decided before the command
	Subject   string              `json:"subject,omitempty"`
	TenantID  *uuid.UUID          `json:"tenant_id,omitempty"`
	Agent     *string             `json:"agent,omitempty"`
	StoredAt  *time.Time          `json:"stored_at,omitempty"`
	DecidedAt *time.Time          `json:"decided_at,omitempty"`
	DecidedBy *string             `json:"decided_by,omitempty"`
	Why       string              `json:"why,omitempty"`
	Headers   map[string][]string `json:"headers,omitempty"`
	Payload   string              `json:"payload,omitempty"`
}

// DeadLetterRows are the rows of dead letters, with the field that the reason is about.
func DeadLetterRows(found []deadletter.DeadLetter) []DeadLetterRow {
	rows := make([]DeadLetterRow, 0, len(found))
	for _, l := range found {
		row := DeadLetterRow{
			ID: deadletter.ID(l.ID), State: l.State, Reason: l.Reason, Detail: l.Detail,
			Subject: l.Subject, TenantID: l.Tenant, Agent: l.Agent, StoredAt: cli.StoredOrNil(&l.Received),
			DecidedAt: cli.StoredOrNil(l.DecidedAt), DecidedBy: l.DecidedBy, Headers: l.Headers, Payload: Printable(l.Payload),
		}
		row.Field, row.Value = fieldOf(&l)
		if l.Why != nil {
			row.Why = *l.Why
		}
		rows = append(rows, row)
	}
	return rows
}
