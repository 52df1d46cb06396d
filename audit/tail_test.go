package audit

import (
	"slices"
	"strings"
	"testing"

	"odometer"
	"odometer/ingest"
)

func (h *house) save() string {
	h.t.Helper()
	h.server.Stop()
	saved := h.server.Save()
	h.server.Start()
	h.eventually("connected again", h.nc.IsConnected)
	return saved
}

// lose takes the stream back to a saved store.
func (h *house) lose(saved string) {
	h.t.Helper()
	h.server.Stop()
	h.server.Restore(saved)
	h.server.Start()
	h.eventually("connected again", h.nc.IsConnected)
}

func kinds(r *Report) []string {
	var found []string
	for _, d := range r.Differences {
		found = append(found, d.Kind)
	}
	slices.Sort(found)
	return slices.Compact(found)
}

func (h *house) findsOnly(kind string) *Report {
	h.t.Helper()
	r := h.audit(Scope{})
	if got := kinds(r); !slices.Equal(got, []string{kind}) {
		h.t.Errorf("found %q, want only %s: %+v", got, kind, r.Differences)
	}
	return r
}

func TestALostTailIsFoundThenSaidAsUnknown(t *testing.T) {
	t.Parallel()
	h := newHouse(t, 3)
	h.run()
	h.life("kept", 60)
	h.settled()
	h.stop()
	saved := h.save()
	h.run()
	h.life("lost", 40)
	h.settled()
	h.stop()
	h.lose(saved)
	h.findsOnly(TailLost)
	if r := h.reconcile(true); r.Done() {
		t.Error("reconcile is content with a stream that lost its tail")
	}
	h.life("instead", 70)
	if !slices.Contains(kinds(h.audit(Scope{})), TailLost) {
		t.Error("a tail with other messages in its place is not found")
	}
	h.findsAmong(TailLost, EventMissing, EventUnknown, DeadChanged)
	h.run()
	h.eventually("a new epoch", func() bool { return h.number(`select count(*) from stream_epochs`) == 2 })
	h.settled()
	r := h.finds(Scope{})
	if r.Comparisons[streamEvents].Unknown == 0 || !strings.Contains(strings.Join(r.Notes, "\n"), "tail that the stream has lost") {
		t.Errorf("nothing says that a tail was lost: %+v %q", r.Comparisons[streamEvents], r.Notes)
	}
}

// findsAmong checks that something of these kinds is found, and nothing else.
func (h *house) findsAmong(among ...string) {
	h.t.Helper()
	r := h.audit(Scope{})
	if len(r.Differences) == 0 {
		h.t.Error("nothing is found")
	}
	for _, kind := range kinds(r) {
		if !slices.Contains(among, kind) {
			h.t.Errorf("found %s, want only %q", kind, among)
		}
	}
}

func TestAStreamMadeAnewIsFound(t *testing.T) {
	t.Parallel()
	h := filled(t)
	if err := h.js.DeleteStream(t.Context(), ingest.StreamName); err != nil {
		t.Fatal(err)
	}
	h.finds(Scope{}, StreamGone)
	if _, err := ingest.EnsureStream(t.Context(), h.js, ingest.StreamConfig{}); err != nil {
		t.Fatal(err)
	}
	h.finds(Scope{}, StreamGone)
	h.run()
	h.life("b", 60)
	h.eventually("a new epoch", func() bool { return h.number(`select count(*) from stream_epochs`) == 2 })
	h.settled()
	h.finds(Scope{})
}

func TestAGapIsFound(t *testing.T) {
	t.Parallel()
	h := filled(t)
	stream, err := h.js.Stream(t.Context(), ingest.StreamName)
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	config.DenyDelete = false
	if _, err := h.js.UpdateStream(t.Context(), config); err == nil {
		if err := stream.DeleteMsg(t.Context(), 100); err != nil {
			t.Fatal(err)
		}
		h.finds(Scope{}, StreamGap)
		return
	}
	t.Log("the server does not let go of deny-delete: a gap can only come from the disk")
	a := &auditor{Options: h.options(), js: h.js, report: newReport(Scope{})}
	if a.at, err = loadStanding(t.Context(), h.pool, nil); err != nil {
		t.Fatal(err)
	}
	if err := a.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := a.gap(t.Context(), 100, 101); err != nil {
		t.Fatal(err)
	}
	if got := kinds(a.report); !slices.Equal(got, []string{StreamGap}) {
		t.Errorf("found %q", got)
	}
}

// An older copy of the database is behind the stream: that is said, and the
// aggregator heals it.
func TestARestoredDatabaseIsSaidAndHeals(t *testing.T) {
	t.Parallel()
	h := newHouse(t, 3)
	h.run()
	h.life("day", 60)
	h.settled()
	h.stop()
	tables := append([]string{"stream_positions", "batches"}, bookTables...)
	for _, table := range tables {
		h.exec(`create table saved_` + table + ` as table ` + table)
	}
	h.run()
	h.life("next", 60)
	h.settled()
	h.stop()
	for _, table := range tables {
		h.exec(`truncate ` + table)
		h.exec(`insert into ` + table + ` overriding system value table saved_` + table)
	}
	r := h.finds(Scope{})
	if r.Stream.Waiting == 0 || !strings.Contains(strings.Join(r.Notes, "\n"), "older copy of the database") {
		t.Errorf("nothing says that the books are behind: %q", r.Notes)
	}
	h.run()
	h.settled()
	if r := h.finds(Scope{}); r.Stream.Waiting != 0 || r.Stream.Events != 120 {
		t.Errorf("stream %+v", r.Stream)
	}
}

// A partition that is read less far than another is no difference.
func TestAPartitionBehindIsNotWrong(t *testing.T) {
	t.Parallel()
	h := filled(t)
	h.publish(email(h.tenants[0], "late one", 3))
	h.run()
	h.settled()
	h.stop()
	h.exec(`update usage_counters c set count = c.count - 3 from usage_events e
		where e.idempotency_key = 'late one' and c.tenant_id = e.tenant_id and c.agent = e.agent and c.period_start = e.period_start`)
	h.exec(`delete from usage_events where idempotency_key = 'late one'`)
	h.finds(Scope{}, EventMissing)
	h.exec(`update stream_positions set seq = seq - 1, stored_at = null where partition = $1`, odometer.PartitionOf(h.tenants[0], 4))
	if r := h.finds(Scope{}); r.Stream.Waiting != 1 {
		t.Errorf("%d messages wait, want 1", r.Stream.Waiting)
	}
}
