package query

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"odometer"
)

// stored gives an event what a test did not say of it, as counting would.
func stored(e Event) Event {
	if e.EventID == uuid.Nil {
		e.EventID = uuid.New()
	}
	if e.Agent == "" {
		e.Agent = "inbox"
	}
	if e.Kind == "" {
		e.Kind = odometer.Usage
	}
	if e.ActionType == "" {
		e.ActionType = "email_processed"
	}
	if e.Quantity == 0 {
		e.Quantity = 1
	}
	if e.IdempotencyKey == "" {
		e.IdempotencyKey = "key-" + e.EventID.String()
	}
	e.OccurredAt = e.OccurredAt.UTC().Truncate(time.Microsecond)
	if e.RecordedAt.IsZero() {
		e.RecordedAt = e.OccurredAt
	}
	e.RecordedAt = e.RecordedAt.UTC().Truncate(time.Microsecond)
	if e.PeriodStart.IsZero() {
		e.PeriodStart = instant("2026-11-01T00:00:00Z")
	}
	e.Late = e.OccurredAt.Before(e.PeriodStart)
	return e
}

// add stores events of a tenant and counts them. It returns them as they were
// stored.
func (b *testEnv) add(tenant uuid.UUID, events ...Event) []Event {
	b.Helper()
	all := make([]Event, len(events))
	var rows [][]any
	for i := range events {
		e := stored(events[i])
		all[i] = e
		var metadata *string
		if e.Metadata != "" {
			text := string(e.Metadata)
			metadata = &text
		}
		rows = append(rows, []any{tenant, e.EventID, e.Agent, string(e.Kind), e.ActionType, e.ResourceID, e.Quantity,
			e.IdempotencyKey, metadata, e.OccurredAt, e.RecordedAt, e.PeriodStart, 1, i})
	}
	columns := []string{"tenant_id", "event_id", "agent", "kind", "action_type", "resource_id", "quantity",
		"idempotency_key", "metadata", "occurred_at", "recorded_at", "period_start", "stream_epoch", "stream_seq"}
	if _, err := b.pool.CopyFrom(context.Background(), pgx.Identifier{"usage_events"}, columns, pgx.CopyFromRows(rows)); err != nil {
		b.Fatal(err)
	}
	b.exec(`insert into usage_counters (tenant_id, agent, period_start, period_end, count)
		select tenant_id, agent, period_start, period_start + interval '1 month', sum(quantity)
		from usage_events where tenant_id = $1 group by 1, 2, 3
		on conflict (tenant_id, agent, period_start) do update set count = excluded.count`, tenant)
	return all
}

// readUntil says up to when every partition is known.
func (b *testEnv) readUntil(at time.Time) {
	b.Helper()
	b.exec(`update stream_positions set complete_until = $1`, at)
}

// removed records that retention removed something of the tenant at that time.
func (b *testEnv) removed(tenant uuid.UUID, at string) {
	b.Helper()
	b.exec(`insert into usage_removed (tenant_id, agent, period_start, quantity, events, updated_at)
		values ($1, 'inbox', '2026-06-01Z', 1, 1, $2)`, tenant, at)
}

// actions puts the sample's actions into the catalogue.
func (b *testEnv) actions() {
	b.Helper()
	b.exec(`delete from actions;
		insert into actions (agent, action_type, position) values ('inbox', 'email_processed', 0),
		('inbox', 'draft_written', 1), ('invoice', 'invoice_created', 0), ('meeting', 'meeting_scheduled', 0)`)
}

// reading is a Reader of the tenant itself.
func reading(tenant uuid.UUID) Reader { return Reader{Tenant: tenant} }

// wantRefused checks why there is no answer, and that the reason is said.
func wantRefused(t testing.TB, err, cause error, says string) {
	t.Helper()
	if !errors.Is(err, cause) || !strings.Contains(err.Error(), says) {
		t.Errorf("got %v, want %v that says %q", err, cause, says)
	}
}

// syncBuffer is a log that is read while it may be written to.
type syncBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *syncBuffer) Write(part []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(part)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}
