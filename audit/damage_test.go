package audit

import (
	"strings"
	"testing"
	"time"
)

// One event of the first tenant's inbox.
const anEvent = `(select event_id from usage_events where agent = 'inbox' and kind = 'usage' and resource_id is null and metadata is null and occurred_at = recorded_at order by event_id limit 1)`

func TestBooksThatAgreeHaveNoDifference(t *testing.T) {
	t.Parallel()
	h := filled(t)
	r := h.finds(Scope{})
	s := r.Stream
	if s.Messages != s.Last || s.Events+s.Duplicates+s.DeadLetters != s.Messages || s.Events != 600 || s.DeadLetters != 6 || s.Duplicates != 1 {
		t.Errorf("stream %+v", s)
	}
	if c := r.Comparisons[eventsCounters]; c.Compared != c.Equal || c.Equal == 0 {
		t.Errorf("counters %+v", c)
	}
	if r.OpenDead != 6 {
		t.Errorf("%d open dead letters, want 6", r.OpenDead)
	}
	h.finds(Scope{Tenant: &h.tenants[1]})
	h.finds(Scope{Since: time.Now().Add(-time.Hour)})
	h.finds(Scope{Since: time.Now().Add(time.Hour)})
}

// Each is what a hostile hand or a failed disk may do to rows.
func TestDamageIsFoundAndNamed(t *testing.T) {
	t.Parallel()
	h := filled(t)
	for _, row := range []struct {
		name  string
		sql   string
		finds []string
	}{
		{"an event deleted", `delete from usage_events where event_id = ` + anEvent, []string{EventMissing, CounterDiffers}},
		{"a quantity changed", `update usage_events set quantity = quantity + 1 where event_id = ` + anEvent, []string{EventChanged, CounterDiffers}},
		{"a resource changed", `update usage_events set resource_id = 'x' where event_id = ` + anEvent, []string{EventChanged}},
		{"metadata changed", `update usage_events set metadata = '{"a": 1}' where event_id = (select event_id from usage_events where metadata is not null limit 1)`, []string{EventChanged}},
		{"a time changed", `update usage_events set occurred_at = occurred_at - interval '1 microsecond' where event_id = ` + anEvent, []string{EventChanged}},
		{"a stored time changed", `update usage_events set recorded_at = recorded_at - interval '1 hour' where event_id = ` + anEvent, []string{EventChanged}},
		{"an event of another tenant", `update usage_events set tenant_id = gen_random_uuid() where event_id = ` + anEvent, []string{EventMissing, EventUnknown, EventMoved, CounterDiffers, CounterMissing}},
		{"an event invented", `insert into usage_events select tenant_id, gen_random_uuid(), agent, kind, action_type, resource_id, 5, 'invented', metadata, occurred_at, recorded_at, period_start, stream_epoch, stream_seq from usage_events where event_id = ` + anEvent, []string{EventUnknown, CounterDiffers}},
		{"an event invented beyond what was read", `insert into usage_events select tenant_id, gen_random_uuid(), agent, kind, action_type, resource_id, 3, 'beyond', metadata, occurred_at, recorded_at, period_start, stream_epoch, 999999 from usage_events where event_id = ` + anEvent, []string{EventUnknown, CounterDiffers}},
		{"an event moved to another period", `update usage_events e set period_start = (select min(p.period_start) from billing_periods p where p.tenant_id = e.tenant_id) where event_id = ` + anEvent, []string{EventMoved, CounterDiffers, CounterDiffers}},
		{"a counter off by one", `update usage_counters set count = count + 1 where ctid = (select ctid from usage_counters where count > 100 limit 1)`, []string{CounterDiffers}},
		{"a counter row missing", `delete from usage_counters where ctid = (select ctid from usage_counters where count > 100 limit 1)`, []string{CounterMissing}},
		{"an extra counter", `insert into usage_counters (tenant_id, agent, period_start, period_end, count) select tenant_id, 'meeting', period_start, period_end, 7 from billing_periods limit 1`, []string{CounterExtra}},
		{"a dead letter deleted", `delete from dead_letters where ctid = (select ctid from dead_letters limit 1)`, []string{EventMissing}},
		{"a dead letter changed", `update dead_letters set payload = 'nothing' where ctid = (select ctid from dead_letters limit 1)`, []string{DeadChanged}},
		{"a dead letter for an event", `insert into dead_letters select e.stream_epoch, e.stream_seq, 's', e.tenant_id, 'inbox', 'malformed', 'x', d.payload, '{}', e.recorded_at from usage_events e, dead_letters d where event_id = ` + anEvent + ` limit 1`, []string{DeadChanged}},
		{"removed events that were not", `insert into usage_removed (tenant_id, agent, period_start, quantity, events) select tenant_id, agent, period_start, 9, 1 from usage_counters limit 1`, []string{CounterDiffers}},
	} {
		t.Run(row.name, func(t *testing.T) {
			backup(h)
			h.exec(row.sql)
			sub := *h
			sub.t = t
			sub.finds(Scope{}, row.finds...)
			restore(h)
		})
	}
	h.finds(Scope{})
}

var bookTables = []string{"usage_events", "usage_counters", "usage_removed", "dead_letters"}

func backup(h *house) {
	for _, table := range bookTables {
		h.exec(`create table saved_` + table + ` as table ` + table)
	}
}

func restore(h *house) {
	for _, table := range bookTables {
		h.exec(`truncate ` + table)
		h.exec(`insert into ` + table + ` table saved_` + table)
		h.exec(`drop table saved_` + table)
	}
}

// By key, by blocks, and for one tenant the same is found.
func TestEveryWayOfLookingFindsTheSame(t *testing.T) {
	t.Parallel()
	h := filled(t)
	h.exec(`update usage_events set quantity = quantity + 1 where event_id = ` + anEvent)
	h.exec(`insert into usage_events select tenant_id, gen_random_uuid(), agent, kind, action_type, resource_id, 5, 'invented', metadata, occurred_at, recorded_at, period_start, stream_epoch, stream_seq from usage_events where tenant_id = $1 limit 1`, h.tenants[0])
	h.exec(`delete from usage_events where ctid = (select ctid from usage_events where tenant_id = $1 and idempotency_key <> 'invented' and quantity = 2 and resource_id is null limit 1)`, h.tenants[0])
	want := h.audit(Scope{})
	a := &auditor{Options: h.options(), js: h.js, progress: func(Progress) {}, report: newReport(Scope{})}
	a.Log = nil
	byKey(t, h, a)
	if got, want := kindsOf(a.report), kindsOf(want); got != want {
		t.Errorf("by key %s, by blocks %s", got, want)
	}
	var first []string
	for _, d := range want.Differences {
		if d.Tenant != nil && *d.Tenant == h.tenants[0] {
			first = append(first, d.Kind)
		}
	}
	h.finds(Scope{Tenant: &h.tenants[0]}, first...)
}

// byKey compares the stream as where retention has mixed the blocks.
func byKey(t *testing.T, h *house, a *auditor) {
	t.Helper()
	var err error
	if a.at, err = loadStanding(t.Context(), h.pool, nil); err != nil {
		t.Fatal(err)
	}
	if err := a.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.at.end = a.at.furthest()
	m := &matcher{auditor: a, layout: &layout{stretches: []stretch{{Low: 1, High: a.at.end, Rows: 1 << 40}}}}
	if err := a.readAll(t.Context(), m, 1); err != nil {
		t.Fatal(err)
	}
	if err := m.lookBack(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := a.compareCounters(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.report.finish()
}

func kindsOf(r *Report) string {
	var kinds []string
	for _, d := range r.Differences {
		kinds = append(kinds, d.Kind+" "+text(d.Tenant)+" "+d.Where)
	}
	return strings.Join(kinds, "\n")
}
