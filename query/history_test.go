package query

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"odometer"
)

func (b *testEnv) history(r HistoryRequest) *History {
	b.Helper()
	h, err := ReadHistory(context.Background(), b.pool, r)
	if err != nil {
		b.Fatal(err)
	}
	return h
}

// groups writes a history's buckets, one a line, without those that are empty.
func (h *History) groups() (lines []string) {
	for _, bucket := range h.Buckets {
		line := fmt.Sprint(bucket.Start.Format("01-02T15:04"), " ", bucket.Quantity, "/", bucket.Events)
		for _, g := range bucket.Groups {
			line += fmt.Sprint(" ", g.Agent, ".", g.ActionType, "=", g.Quantity, "/", g.Events)
		}
		if bucket.Events > 0 {
			lines = append(lines, line)
		}
	}
	return lines
}

func TestHistoryIsGroupedAsRequested(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	b.actions()
	tenant := b.customer("price_bundle_monthly")
	b.add(tenant,
		Event{OccurredAt: instant("2026-11-02T23:30:00Z"), Quantity: 5},
		Event{OccurredAt: instant("2026-11-02T23:45:00Z"), Quantity: 2, ActionType: "draft_written"},
		Event{OccurredAt: instant("2026-11-02T10:00:00Z"), Agent: "meeting", ActionType: "meeting_scheduled"},
		Event{OccurredAt: instant("2026-11-02T10:00:00Z"), Kind: odometer.Adjustment, ActionType: odometer.AdjustmentAction, Quantity: -3},
		Event{OccurredAt: instant("2026-11-03T10:00:00Z"), Agent: "left", ActionType: "gone"},
		Event{OccurredAt: instant("2026-11-03T10:00:00Z"), Agent: "invoice", ActionType: "invoice_created"},
	)
	tests := []struct {
		name    string
		request HistoryRequest
		want    []string
	}{
		{"by agent, in the catalogue's order", HistoryRequest{}, []string{
			"11-02T00:00 5/4 inbox.=4/3 meeting.=1/1",
			"11-03T00:00 2/2 invoice.=1/1 left.=1/1"}},
		{"by both", HistoryRequest{GroupBy: []string{ByAction, ByAgent}}, []string{
			"11-02T00:00 5/4 inbox.email_processed=5/1 inbox.draft_written=2/1 inbox.adjustment=-3/1 meeting.meeting_scheduled=1/1",
			"11-03T00:00 2/2 invoice.invoice_created=1/1 left.gone=1/1"}},
		{"by action", HistoryRequest{GroupBy: []string{ByAction}}, []string{
			"11-02T00:00 5/4 .adjustment=-3/1 .draft_written=2/1 .email_processed=5/1 .meeting_scheduled=1/1",
			"11-03T00:00 2/2 .gone=1/1 .invoice_created=1/1"}},
		{"by nothing", HistoryRequest{GroupBy: []string{}}, []string{"11-02T00:00 5/4", "11-03T00:00 2/2"}},
		{"in another zone", HistoryRequest{GroupBy: []string{}, Timezone: "Europe/Berlin"}, []string{"11-01T23:00 -2/2", "11-02T23:00 9/4"}},
		{"by hour", HistoryRequest{GroupBy: []string{}, Window: ByHour}, []string{"11-02T10:00 -2/2", "11-02T23:00 7/2", "11-03T10:00 2/2"}},
		{"by month", HistoryRequest{GroupBy: []string{}, Window: ByMonth}, []string{"11-01T00:00 7/6"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.request.Reader = reading(tenant)
			test.request.To = instant("2026-11-20T12:00:00Z")
			if diff := cmp.Diff(test.want, b.history(test.request).groups()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestHistoryHasEveryWindowOfItsRange(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := b.customer("price_bundle_monthly")
	h := b.history(HistoryRequest{Reader: reading(tenant), From: instant("2026-11-05T12:00:00Z"), To: instant("2026-11-07T00:00:00.5Z")})
	text, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"tenant_id":"` + tenant.String() + `","from":"2026-11-05T00:00:00Z","to":"2026-11-08T00:00:00Z","window":"day","timezone":"UTC","group_by":["agent"],"as_of":"2026-11-23T07:15:33.120Z","complete_from":null,` +
		`"buckets":[{"start":"2026-11-05T00:00:00Z","end":"2026-11-06T00:00:00Z","quantity":0,"events":0,"groups":[]},` +
		`{"start":"2026-11-06T00:00:00Z","end":"2026-11-07T00:00:00Z","quantity":0,"events":0,"groups":[]},` +
		`{"start":"2026-11-07T00:00:00Z","end":"2026-11-08T00:00:00Z","quantity":0,"events":0,"groups":[]}]}`
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Error(diff)
	}
}

func TestHistoryBeginsWithTheCurrentPeriod(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	b.readUntil(time.Now())
	begun := time.Now().Add(-3 * 24 * time.Hour).UTC()
	young := b.subscribe(odometer.Active, "price_bundle_monthly")
	b.exec(`insert into billing_periods (tenant_id, period_start, period_end, plan_id) values ($1, $2, $2::timestamptz + interval '1 year', 'price_bundle_monthly')`, young, begun)
	h := b.history(HistoryRequest{Reader: reading(young)})
	if from := begun.Truncate(24 * time.Hour); !h.From.Equal(from) || len(h.Buckets) < 4 || h.To.Before(time.Now()) {
		t.Errorf("from %s to %s in %d days, the period began at %s", h.From, h.To, len(h.Buckets), begun)
	}
	b.readUntil(time.Now())
	// A default is never the client's mistake.
	old := b.subscribe(odometer.Active, "price_bundle_monthly")
	b.exec(`insert into billing_periods (tenant_id, period_start, period_end, plan_id) values ($1, now() - interval '300 days', now() + interval '65 days', 'price_bundle_monthly')`, old)
	if h := b.history(HistoryRequest{Reader: reading(old), Window: ByHour}); len(h.Buckets) != 31*24+1 {
		t.Errorf("%d hours from %s to %s, want 31 days", len(h.Buckets), h.From, h.To)
	}
}

// The aggregator may be behind, or the range end tomorrow.
func TestWindowsAfterAsOfAreLeftOut(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := b.customer("price_bundle_monthly")
	until := instant(knownUntil)
	ask := func(from, to time.Time) *History {
		return b.history(HistoryRequest{Reader: reading(tenant), From: from, To: to})
	}
	h := ask(until.AddDate(0, 0, -2), until.AddDate(0, 0, 5))
	if last := h.Buckets[len(h.Buckets)-1]; len(h.Buckets) != 3 || !last.Start.Before(until) || !last.End.After(until) {
		t.Errorf("%d days, the last begins at %s; it is known until %s", len(h.Buckets), last.Start, until)
	}
	if h := ask(until.AddDate(0, 0, 1), until.AddDate(0, 0, 2)); len(h.Buckets) != 0 {
		t.Errorf("%d days of the future", len(h.Buckets))
	}
}

// A longer retention keeps, and shows, more.
func TestEventsOfALongRetentionAreShown(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := b.customer("price_bundle_monthly")
	b.removed(tenant, "2026-11-22T00:00:00Z")
	b.exec(`update usage_removed set stored_before = updated_at - interval '400 days'`)
	h := b.history(HistoryRequest{Reader: reading(tenant), From: instant("2026-05-01T00:00:00Z"), To: instant("2026-08-01T00:00:00Z")})
	if want := instant("2025-10-18T00:05:00Z"); h.CompleteFrom == nil || !h.CompleteFrom.Equal(want) || len(h.Buckets) != 92 {
		t.Errorf("complete from %v, want %s; %d days", h.CompleteFrom, want, len(h.Buckets))
	}
}

func TestWindowsThatRetentionTouchedAreLeftOut(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant, other := b.customer("price_bundle_monthly"), b.customer("price_bundle_monthly")
	for _, id := range []uuid.UUID{tenant, other} {
		b.add(id, Event{OccurredAt: instant("2026-08-24T08:00:00Z")}, Event{OccurredAt: instant("2026-08-25T08:00:00Z")})
	}
	// 90 days before, and 5 minutes: 08-24T12:05.
	b.removed(tenant, "2026-11-22T12:00:00Z")
	request := HistoryRequest{Reader: reading(tenant), From: instant("2026-08-20T00:00:00Z"), To: instant("2026-08-27T00:00:00Z")}
	h := b.history(request)
	if got := strings.Join(h.groups(), "; "); got != "08-25T00:00 1/1 inbox.=1/1" || len(h.Buckets) != 2 {
		t.Errorf("%d buckets: %s", len(h.Buckets), got)
	}
	if want := instant("2026-08-24T12:05:00Z"); h.CompleteFrom == nil || !h.CompleteFrom.Equal(want) || !h.From.Equal(request.From) {
		t.Errorf("complete from %v, from %s", h.CompleteFrom, h.From)
	}
	request.To = instant("2026-08-24T00:00:00Z")
	if h := b.history(request); len(h.Buckets) != 0 || h.Buckets == nil {
		t.Errorf("buckets of what was removed: %v", h.Buckets)
	}
	request.Reader, request.To = reading(other), instant("2026-08-27T00:00:00Z")
	if h := b.history(request); h.CompleteFrom != nil || len(h.Buckets) != 7 {
		t.Errorf("another tenant: complete from %v, %d buckets", h.CompleteFrom, len(h.Buckets))
	}
}

func TestInvalidHistoryRequestsAreRefused(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := b.customer("price_bundle_monthly")
	from := instant("2026-11-01T00:00:00Z")
	tests := []struct {
		name    string
		request HistoryRequest
		says    string
	}{
		{"window", HistoryRequest{Window: "week"}, `window is "week": it must be hour, day or month`},
		{"group", HistoryRequest{GroupBy: []string{"tenant"}}, `group_by is "tenant": it must be agent, action_type`},
		{"group twice", HistoryRequest{GroupBy: []string{ByAgent, ByAgent}}, `group_by is "agent,agent"`},
		{"zone", HistoryRequest{Timezone: "Mars/Olympus"}, `timezone is "Mars/Olympus": it must be a name of the IANA list`},
		{"the machine's zone", HistoryRequest{Timezone: "Local"}, `timezone is "Local"`},
		{"a path", HistoryRequest{Timezone: "../../etc/passwd"}, `timezone is "../../etc/passwd"`},
		{"nothing between", HistoryRequest{From: from, To: from}, "from must be before to"},
		{"backwards", HistoryRequest{From: from, To: from.Add(-time.Hour)}, "from must be before to"},
		{"hours", HistoryRequest{Window: ByHour, From: from, To: from.AddDate(0, 0, 31).Add(1)}, "at most 31 days"},
		{"days", HistoryRequest{From: from, To: from.AddDate(0, 0, 366).Add(1)}, "at most 366 days"},
		{"months", HistoryRequest{Window: ByMonth, From: from, To: from.AddDate(5, 0, 0).Add(1)}, "at most 60 months"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.request.Reader = reading(tenant)
			_, err := ReadHistory(context.Background(), b.pool, test.request)
			wantRefused(t, err, ErrInvalid, test.says)
		})
	}
	for window, to := range map[Window]time.Time{ByHour: from.AddDate(0, 0, 31), ByDay: from.AddDate(0, 0, 366), ByMonth: from.AddDate(0, 60, 0)} {
		b.history(HistoryRequest{Reader: reading(tenant), Window: window, From: from, To: to})
	}
}

// naive is what a history should say, from the events themselves.
func naive(events []Event, h *History) []Bucket {
	buckets := []Bucket{}
	for _, bucket := range h.Buckets {
		sum := Bucket{Start: bucket.Start, End: bucket.End, Groups: []Group{}}
		groups := map[Group]*Group{}
		for _, e := range events {
			if e.OccurredAt.Before(bucket.Start) || !e.OccurredAt.Before(bucket.End) {
				continue
			}
			sum.Quantity += e.Quantity
			sum.Events++
			var key Group
			if slices.Contains(h.GroupBy, ByAgent) {
				key.Agent = e.Agent
			}
			if slices.Contains(h.GroupBy, ByAction) {
				key.ActionType = e.ActionType
			}
			if groups[key] == nil {
				group := key
				groups[key] = &group
			}
			groups[key].Quantity += e.Quantity
			groups[key].Events++
		}
		for _, g := range groups {
			if len(h.GroupBy) > 0 {
				sum.Groups = append(sum.Groups, *g)
			}
		}
		buckets = append(buckets, sum)
	}
	return buckets
}

func TestHistoryIsTheSumOfItsEvents(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	b.actions()
	start, end := instant("2026-10-01T00:00:00Z"), instant("2026-12-01T00:00:00Z")
	tenant := b.customer("price_bundle_monthly")
	b.readUntil(end.AddDate(0, 2, 0))
	b.add(b.customer("price_bundle_monthly"), Event{OccurredAt: start.AddDate(0, 0, 40)}) // another's
	var events []Event
	rapid.Check(t, func(t *rapid.T) {
		at := time.Duration(rapid.Int64Range(0, int64(end.Sub(start))-1).Draw(t, "at"))
		if rapid.Bool().Draw(t, "at an hour's edge") {
			at = at.Truncate(time.Hour)
		}
		e := Event{OccurredAt: start.Add(at), Quantity: rapid.Int64Range(1, 9).Draw(t, "quantity")}
		e.Agent = rapid.SampledFrom([]string{"inbox", "invoice", "meeting"}).Draw(t, "agent")
		e.ActionType = rapid.SampledFrom([]string{"email_processed", "draft_written"}).Draw(t, "action")
		// As far ahead of the time it was stored as it can be, or late.
		e.RecordedAt = e.OccurredAt.Add(rapid.SampledFrom([]time.Duration{-odometer.MaxAhead, 0, time.Hour}).Draw(t, "stored"))
		events = append(events, b.add(tenant, e)...)

		from := start.Add(time.Duration(rapid.Int64Range(0, int64(end.Sub(start))-2).Draw(t, "from")))
		to := from.Add(time.Duration(rapid.Int64Range(1, int64(min(end.Sub(from), 31*24*time.Hour))).Draw(t, "span")))
		h := b.history(HistoryRequest{
			Reader: reading(tenant), From: from, To: to,
			Window:   rapid.SampledFrom([]Window{ByHour, ByDay, ByMonth}).Draw(t, "window"),
			Timezone: rapid.SampledFrom(zones).Draw(t, "zone"),
			GroupBy:  rapid.SampledFrom([][]string{{}, {ByAgent}, {ByAction}, {ByAgent, ByAction}}).Draw(t, "group by"),
		})
		byName := func(a, b Group) int { return strings.Compare(a.Agent+" "+a.ActionType, b.Agent+" "+b.ActionType) }
		for i := range h.Buckets {
			slices.SortFunc(h.Buckets[i].Groups, byName)
		}
		want := naive(events, h)
		for i := range want {
			slices.SortFunc(want[i].Groups, byName)
		}
		if diff := cmp.Diff(want, h.Buckets); diff != "" {
			t.Fatal(diff)
		}
		if h.From.After(from) || h.To.Before(to) {
			t.Fatalf("[%s, %s) was asked for, [%s, %s) answered", from, to, h.From, h.To)
		}
	})
	sums := map[string]int64{}
	for _, bucket := range b.history(HistoryRequest{Reader: reading(tenant), From: start, To: end}).Buckets {
		for _, g := range bucket.Groups {
			sums[g.Agent] += g.Quantity
		}
	}
	// All of them are counted in November, those of October late.
	for _, m := range b.usage(tenant).Usage {
		if sums[m.Name] != m.Value.Count {
			t.Errorf("%s: the history's sum is %d, the counter %d", m.Name, sums[m.Name], m.Value.Count)
		}
	}
}
