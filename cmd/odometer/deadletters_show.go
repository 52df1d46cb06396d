package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"odometer"
	"odometer/aggregator/deadletter"
	"odometer/cmd/internal/cli"
)

type deadlettersShowCmd struct {
	letterFilter
	Limit int `help:"How many letters to show at most, newest first." default:"20"`
}

// Run shows letters so that a person can mend their sender.
func (c *deadlettersShowCmd) Run(ctx context.Context, t *cli.Terminal) error {
	s, err := c.chosen("show")
	if err != nil {
		return err
	}
	pool, err := c.OpenMigrated(ctx)
	if err != nil {
		return err
	}
	defer pool.Close()
	letters, err := deadletter.List(ctx, pool, s, "", max(c.Limit, len(c.IDs)))
	if err != nil {
		return noLetter(err)
	}
	lines := make([]letterLine, 0, len(letters))
	for i := range letters {
		lines = append(lines, letterLineOf(&letters[i]))
	}
	if c.JSON {
		return t.JSON(map[string]any{"letters": lines})
	}
	if len(lines) == 0 {
		fmt.Fprintln(t.Out, "no dead letters")
	}
	for i := range lines {
		showLetter(t, &lines[i], &letters[i])
	}
	return nil
}

func showLetter(t *cli.Terminal, l *letterLine, full *deadletter.DeadLetter) {
	say := func(name, value string) {
		if value != "" {
			fmt.Fprintf(t.Out, "  %-9s%s\n", name, value)
		}
	}
	fmt.Fprintf(t.Out, "dead letter %s, %s\n", l.ID, l.State)
	say("reason", string(l.Reason))
	say("detail", l.Detail)
	say("field", strings.TrimSuffix(l.Field+": "+l.Value, ": "))
	say("subject", full.Subject)
	say("stored", full.Received.UTC().Format(time.RFC3339Nano))
	if full.DecidedAt != nil {
		say("decided", full.DecidedAt.UTC().Format(time.RFC3339)+" by "+cli.OrNone(full.DecidedBy))
	}
	say("why", l.Why)
	for _, name := range slices.Sorted(maps.Keys(full.Headers)) {
		say("header", name+": "+strings.Join(full.Headers[name], ", "))
	}
	say("payload", strings.ReplaceAll(readable(full.Payload), "\n", "\n           "))
}

// readable is a payload that cannot disturb a terminal.
func readable(payload []byte) string {
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

// field finds the offending field and what the payload says in it.
func fieldOf(l *deadletter.DeadLetter) (name, value string) {
	var members map[string]json.RawMessage
	_ = json.Unmarshal(l.Payload, &members) // what is no object has no fields
	names := offending(l.Reason, l.Detail)
	for _, name := range names {
		if raw, ok := members[name]; ok {
			return name, readable(raw)
		}
	}
	var data map[string]json.RawMessage
	_ = json.Unmarshal(members["data"], &data)
	if raw, ok := data[names[0]]; ok {
		return "data." + names[0], readable(raw)
	}
	return names[0], ""
}

// letterLine is a letter as JSON.
type letterLine struct {
	ID        string              `json:"id"`
	State     string              `json:"state"`
	Reason    odometer.Reason     `json:"reason"`
	Detail    string              `json:"detail"`
	Field     string              `json:"field,omitempty"`
	Value     string              `json:"value,omitempty"`
	Already   bool                `json:"already,omitempty"` // decided before this command
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

func letterLineOf(l *deadletter.DeadLetter) letterLine {
	line := letterLine{
		ID: deadletter.ID(l.ID), State: l.State, Reason: l.Reason, Detail: l.Detail,
		Subject: l.Subject, TenantID: l.Tenant, Agent: l.Agent, StoredAt: storedOrNil(&l.Received),
		DecidedAt: storedOrNil(l.DecidedAt), DecidedBy: l.DecidedBy, Headers: l.Headers, Payload: readable(l.Payload),
	}
	line.Field, line.Value = fieldOf(l)
	if l.Why != nil {
		line.Why = *l.Why
	}
	return line
}

// letterListOf is what list --json prints.
func letterListOf(groups []deadletter.Group, letters []deadletter.DeadLetter) any {
	type group struct {
		Reason   odometer.Reason `json:"reason"`
		TenantID *uuid.UUID      `json:"tenant_id"`
		State    string          `json:"state"`
		Count    int64           `json:"count"`
		Oldest   time.Time       `json:"oldest_stored_at"`
		Newest   time.Time       `json:"newest_stored_at"`
	}
	var total int64
	counts, lines := []group{}, []letterLine{}
	for _, g := range groups {
		total += g.Count
		counts = append(counts, group{g.Reason, g.Tenant, g.State, g.Count, g.Oldest.UTC(), g.Newest.UTC()})
	}
	for i := range letters {
		lines = append(lines, letterLineOf(&letters[i]))
	}
	return map[string]any{"total": total, "groups": counts, "letters": lines}
}

// letterReport is what a change of letters came to.
type letterReport struct {
	Total   int            `json:"total"`
	Counts  map[string]int `json:"counts"`  // by state
	Letters []letterLine   `json:"letters"` // the first of them
}

// shownLetters bounds what a change of many letters prints.
const shownLetters = 1000

func (r *letterReport) add(o deadletter.Outcome) {
	r.Total++
	r.Counts[o.State]++
	if len(r.Letters) < shownLetters {
		r.Letters = append(r.Letters, letterLine{ID: deadletter.ID(o.ID), State: o.State, Reason: o.Reason, Detail: o.Detail, Already: o.Before})
	}
}

func (r *letterReport) print(t *cli.Terminal) {
	if r.Total == 0 {
		fmt.Fprintln(t.Out, "no open dead letters: nothing to do")
		return
	}
	for _, l := range r.Letters {
		switch {
		case l.Already:
			fmt.Fprintf(t.Out, "%s %s before: nothing to do\n", l.ID, l.State)
		case l.State == "open":
			fmt.Fprintf(t.Out, "%s still dead: %s: %s\n", l.ID, l.Reason, l.Detail)
		default:
			fmt.Fprintf(t.Out, "%s %s\n", l.ID, l.State)
		}
	}
	if more := r.Total - len(r.Letters); more > 0 {
		fmt.Fprintf(t.Out, "and %d more\n", more)
	}
	fmt.Fprintf(t.Out, "%d dead letters: %d retried, %d duplicate, %d discarded, %d still open\n",
		r.Total, r.Counts["retried"], r.Counts["duplicate"], r.Counts["discarded"], r.Counts["open"])
}
