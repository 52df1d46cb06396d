package query

import (
	"bytes"
	"context"
	"encoding/base64"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"odometer"
	"odometer/api"
)

func (b *testEnv) events(r EventsRequest) *Events {
	b.Helper()
	e, err := ReadEvents(context.Background(), b.pool, r)
	if err != nil {
		b.Fatal(err)
	}
	return e
}

// newestFirst is the order of a list.
func newestFirst(a, b Event) int {
	if c := b.OccurredAt.Compare(a.OccurredAt); c != 0 {
		return c
	}
	return bytes.Compare(b.EventID[:], a.EventID[:])
}

// november asks for the events of November up to the test's time.
func november(tenant uuid.UUID) EventsRequest {
	return EventsRequest{Reader: reading(tenant), From: instant("2026-11-01T00:00:00Z"), To: instant("2026-11-24T00:00:00Z")}
}

func TestEventsAreReadAsTheyAreStored(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := b.customer("price_bundle_monthly")
	resource := "msg-1"
	all := b.add(tenant,
		Event{
			EventID: uuid.MustParse("234bc095-7256-f1c7-9fc4-3b4aca9c1841"), ResourceID: &resource, Quantity: 3, IdempotencyKey: "k-1",
			OccurredAt: instant("2026-11-23T07:00:00.000001Z"), RecordedAt: instant("2026-11-23T07:00:00.25Z"),
			Metadata: `{"n": 12345678901234567890.10, "deep": {"é": [null, "<&>"]}}`,
		},
		Event{
			EventID: uuid.MustParse("00000000-7256-f1c7-9fc4-3b4aca9c1841"), Kind: odometer.Adjustment, ActionType: "adjustment", Quantity: -2, IdempotencyKey: "k-2",
			OccurredAt: instant("2026-10-31T23:00:00+01:00"), PeriodStart: instant("2026-11-01T00:00:00Z"),
		},
	)
	text, err := api.JSON(b.events(EventsRequest{Reader: reading(tenant), From: instant("2026-10-30T00:00:00Z"), To: instant("2026-11-24T00:00:00Z")}))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"tenant_id":"` + tenant.String() + `","from":"2026-10-30T00:00:00Z","to":"2026-11-24T00:00:00Z","as_of":"2026-11-23T07:15:33.120Z","complete_from":null,"events":[` +
		`{"event_id":"234bc095-7256-f1c7-9fc4-3b4aca9c1841","agent":"inbox","kind":"usage","action_type":"email_processed","resource_id":"msg-1","quantity":3,"idempotency_key":"k-1","metadata":{"n":12345678901234567890.10,"deep":{"é":[null,"<&>"]}},"occurred_at":"2026-11-23T07:00:00.000001Z","recorded_at":"2026-11-23T07:00:00.25Z","period_start":"2026-11-01T00:00:00Z","late":false},` +
		`{"event_id":"00000000-7256-f1c7-9fc4-3b4aca9c1841","agent":"inbox","kind":"adjustment","action_type":"adjustment","resource_id":null,"quantity":-2,"idempotency_key":"k-2","metadata":null,"occurred_at":"2026-10-31T22:00:00Z","recorded_at":"2026-10-31T22:00:00Z","period_start":"2026-11-01T00:00:00Z","late":true}],"next_cursor":null}`
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Error(diff)
	}
	if !all[1].Late {
		t.Error("the test's late event is not")
	}
}

func TestEventsAreFilteredBySpanAgentAndAction(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := b.customer("price_bundle_monthly")
	at := instant("2026-11-10T00:00:00Z")
	b.add(tenant,
		Event{OccurredAt: at, IdempotencyKey: "first"},
		Event{OccurredAt: at.Add(time.Microsecond), IdempotencyKey: "second", ActionType: "draft_written"},
		Event{OccurredAt: at.Add(time.Hour), IdempotencyKey: "ahead", Agent: "invoice", RecordedAt: at.Add(time.Hour - odometer.MaxAhead)},
		Event{OccurredAt: at.Add(2 * time.Hour), IdempotencyKey: "late", RecordedAt: at.AddDate(0, 0, 10)},
	)
	b.add(b.customer("price_bundle_monthly"), Event{OccurredAt: at, IdempotencyKey: "another's"})
	tests := []struct {
		name   string
		change func(*EventsRequest)
		want   string
	}{
		{"all", func(*EventsRequest) {}, "late ahead second first"},
		{"from is in", func(r *EventsRequest) { r.From = at }, "late ahead second first"},
		{"to is not", func(r *EventsRequest) { r.To = at.Add(2 * time.Hour) }, "ahead second first"},
		{"between two microseconds", func(r *EventsRequest) { r.From, r.To = at.Add(1), at.Add(1001) }, "second"},
		{"stored before the span", func(r *EventsRequest) { r.From, r.To = at.Add(time.Hour), at.Add(time.Hour+1) }, "ahead"},
		{"agent", func(r *EventsRequest) { r.Agent = "invoice" }, "ahead"},
		{"action", func(r *EventsRequest) { r.ActionType = "draft_written" }, "second"},
		{"both", func(r *EventsRequest) { r.Agent, r.ActionType = "invoice", "draft_written" }, ""},
		{"what nobody sent", func(r *EventsRequest) { r.Agent = "unheard_of" }, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			request := november(tenant)
			test.change(&request)
			var keys []string
			for _, e := range b.events(request).Events {
				keys = append(keys, e.IdempotencyKey)
			}
			if got := strings.Join(keys, " "); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

func TestEventsOfTheLast31DaysAreTheDefault(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := b.customer("price_bundle_monthly")
	now := time.Now()
	b.add(tenant, Event{OccurredAt: now.Add(odometer.MaxAhead), RecordedAt: now, IdempotencyKey: "latest"}, Event{OccurredAt: now.Add(-32 * 24 * time.Hour)})
	page := b.events(EventsRequest{Reader: reading(tenant)})
	if len(page.Events) != 1 || page.Events[0].IdempotencyKey != "latest" || page.To.Sub(page.From) != MaxEventsSpan {
		t.Errorf("%d events from %s to %s", len(page.Events), page.From, page.To)
	}
	b.removed(tenant, "2026-11-22T12:00:00Z")
	if from := b.events(EventsRequest{Reader: reading(tenant)}).CompleteFrom; from == nil || !from.Equal(instant("2026-08-24T12:05:00Z")) {
		t.Errorf("complete from %v", from)
	}
}

func TestPagesShowEachEventOnceWhileOthersArrive(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	start := instant("2026-11-01T00:00:00Z")
	rapid.Check(t, func(t *rapid.T) {
		tenant := b.customer("price_bundle_monthly")
		draw := func(n int, before time.Time) []Event {
			events := make([]Event, n)
			for i := range events {
				// Dense and sparse, often at the same time.
				back := time.Duration(rapid.SampledFrom([]int64{1e3, 60e9, 3600e9, 36e12}).Draw(t, "scale") * rapid.Int64Range(0, 20).Draw(t, "back"))
				events[i] = Event{OccurredAt: before.Add(-back), RecordedAt: before, Agent: rapid.SampledFrom([]string{"inbox", "meeting"}).Draw(t, "agent")}
			}
			return events
		}
		to := start.AddDate(0, 0, 20)
		there := b.add(tenant, draw(rapid.IntRange(0, 25).Draw(t, "there"), to.Add(-1))...)
		request := EventsRequest{
			Reader: reading(tenant), From: to.Add(-rapid.SampledFrom([]time.Duration{time.Minute, 30 * time.Hour, MaxEventsSpan}).Draw(t, "span")), To: to,
			Limit: rapid.IntRange(1, 8).Draw(t, "limit"), Agent: rapid.SampledFrom([]string{"", "inbox"}).Draw(t, "only"),
		}
		var want, got []Event
		for _, e := range there {
			if !e.OccurredAt.Before(request.From) && e.OccurredAt.Before(to) && (request.Agent == "" || e.Agent == request.Agent) {
				want = append(want, e)
			}
		}
		slices.SortFunc(want, newestFirst)
		for {
			page := b.events(request)
			if len(page.Events) > request.Limit || page.NextCursor != nil && len(page.Events) < request.Limit {
				t.Fatalf("a page of %d, limit %d, another follows: %v", len(page.Events), request.Limit, page.NextCursor != nil)
			}
			got = append(got, page.Events...)
			if page.NextCursor == nil {
				break
			}
			request.Cursor = *page.NextCursor
			// What arrives meanwhile and is newer than the page.
			b.add(tenant, Event{OccurredAt: to.Add(-1), IdempotencyKey: "arrived"})
		}
		got = slices.DeleteFunc(got, func(e Event) bool { return e.IdempotencyKey == "arrived" })
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestCursorIsValidForItsListOnly(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := b.customer("price_bundle_monthly")
	for i := range 5 {
		b.add(tenant, Event{OccurredAt: time.Now().Add(-time.Duration(i) * time.Hour)})
	}
	first := b.events(EventsRequest{Reader: reading(tenant), Limit: 2})
	// Neither from nor to, which have moved on by now.
	second := b.events(EventsRequest{Reader: reading(tenant), Limit: 2, Cursor: *first.NextCursor})
	if !second.From.Equal(first.From) || !second.To.Equal(first.To) || len(second.Events) != 2 {
		t.Errorf("%d events from %s to %s", len(second.Events), second.From, second.To)
	}
	b.events(EventsRequest{Reader: reading(tenant), From: first.From, To: first.To, Cursor: *first.NextCursor})

	other := b.customer("price_bundle_monthly")
	altered := func(change func(raw []byte) []byte) string {
		raw, _ := base64.RawURLEncoding.DecodeString(*first.NextCursor)
		return base64.RawURLEncoding.EncodeToString(change(raw))
	}
	tests := []struct {
		name    string
		request EventsRequest
		says    string
	}{
		{"rubbish", EventsRequest{Cursor: "rubbish!"}, `cursor is "rubbish!": it must be the next_cursor of an answer to the same request`},
		{"cut", EventsRequest{Cursor: (*first.NextCursor)[:20]}, "it must be the next_cursor"},
		{"padded", EventsRequest{Cursor: *first.NextCursor + "="}, "it must be the next_cursor"},
		{"altered", EventsRequest{Cursor: altered(func(raw []byte) []byte { raw[9]++; return raw })}, "it must be the next_cursor"},
		{"lengthened", EventsRequest{Cursor: altered(func(raw []byte) []byte { return append(raw, 0) })}, "it must be the next_cursor"},
		{"of another filter", EventsRequest{Cursor: *first.NextCursor, Agent: "inbox"}, "it must be the next_cursor"},
		{"of another tenant", EventsRequest{Reader: reading(other), Cursor: *first.NextCursor}, "it must be the next_cursor"},
		{"of another span", EventsRequest{Cursor: *first.NextCursor, To: first.To.Add(time.Second)}, "leave from and to out, or give these"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if test.request.Tenant == uuid.Nil {
				test.request.Reader = reading(tenant)
			}
			_, err := ReadEvents(context.Background(), b.pool, test.request)
			wantRefused(t, err, ErrInvalid, test.says)
		})
	}
}

func TestForgedCursorReadsOnlyItsOwnTenant(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant, other := b.customer("price_bundle_monthly"), b.customer("price_bundle_monthly")
	mine := b.add(tenant, Event{OccurredAt: instant("2026-11-10T00:00:00Z")})
	theirs := b.add(other, Event{OccurredAt: instant("2026-11-11T00:00:00Z")})
	// The checksum keeps out mistakes, not people.
	forged := list{tenant: tenant, from: instant("2026-11-01T00:00:00Z"), to: instant("2026-11-20T00:00:00Z")}
	page := b.events(EventsRequest{Reader: reading(tenant), Cursor: *forged.cursor(&theirs[0])})
	if diff := cmp.Diff(mine, page.Events); diff != "" {
		t.Error(diff)
	}
	forged.from = forged.from.AddDate(-1, 0, 0)
	_, err := ReadEvents(context.Background(), b.pool, EventsRequest{Reader: reading(tenant), Cursor: *forged.cursor(&theirs[0])})
	wantRefused(t, err, ErrInvalid, "at most 31 days")
	forged.from, forged.to = instant("3500-01-01T00:00:00Z"), instant("3500-01-02T00:00:00Z")
	_, err = ReadEvents(context.Background(), b.pool, EventsRequest{Reader: reading(tenant), Cursor: *forged.cursor(&theirs[0])})
	wantRefused(t, err, ErrInvalid, "it must be the next_cursor")
}

func TestInvalidEventRequestsAreRefused(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := b.customer("price_bundle_monthly")
	from := instant("2026-11-01T00:00:00Z")
	tests := []struct {
		name    string
		request EventsRequest
		says    string
	}{
		{"too many", EventsRequest{Limit: 1001}, "limit is 1001: it must be from 1 to 1000"},
		{"fewer than none", EventsRequest{Limit: -1}, "limit is -1"},
		{"an agent that is none", EventsRequest{Agent: "In box"}, `agent is "In box": an agent's id is a small letter`},
		{"a NUL, which the database does not take", EventsRequest{ActionType: "a\x00"}, "it must be at most 255 characters of text"},
		{"bytes that are no text", EventsRequest{ActionType: "\xff"}, "characters of text"},
		{"a long action", EventsRequest{ActionType: strings.Repeat("é", 256)}, "at most 255 characters"},
		{"nothing between", EventsRequest{From: from, To: from}, "from must be before to"},
		{"a long span", EventsRequest{From: from, To: from.Add(MaxEventsSpan + time.Microsecond)}, "at most 31 days"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.request.Reader = reading(tenant)
			_, err := ReadEvents(context.Background(), b.pool, test.request)
			wantRefused(t, err, ErrInvalid, test.says)
		})
	}
	b.events(EventsRequest{Reader: reading(tenant), From: from, To: from.Add(MaxEventsSpan), Limit: MaxEvents})
}
