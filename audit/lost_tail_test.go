package audit

import (
	"slices"
	"strings"
	"testing"

	"odometer"
	"odometer/ingest"
	"odometer/internal/testenv"
)

func (e *testEnv) save() string {
	e.t.Helper()
	e.Server.Stop()
	saved := e.Server.Save()
	e.Server.Start()
	testenv.Eventually(e.t, "connected again", e.NATS.IsConnected)
	return saved
}

// lose takes the stream back to a saved store.
func (e *testEnv) lose(saved string) {
	e.t.Helper()
	e.Server.Stop()
	e.Server.Restore(saved)
	e.Server.Start()
	testenv.Eventually(e.t, "connected again", e.NATS.IsConnected)
}

func kinds(r *Report) []string {
	var found []string
	for _, d := range r.Differences {
		found = append(found, d.Kind)
	}
	slices.Sort(found)
	return slices.Compact(found)
}

func (e *testEnv) findsOnly(kind string) *Report {
	e.t.Helper()
	r := e.audit(Scope{})
	if got := kinds(r); !slices.Equal(got, []string{kind}) {
		e.t.Errorf("found %q, want only %s: %+v", got, kind, r.Differences)
	}
	return r
}

func TestLostTailIsFoundAndUnknownAfterwards(t *testing.T) {
	t.Parallel()
	e := newTestEnv(t, 3)
	e.run()
	e.publishMix("kept", 60)
	e.WaitUntilRead()
	e.stop()
	saved := e.save()
	e.run()
	e.publishMix("lost", 40)
	e.WaitUntilRead()
	e.stop()
	e.lose(saved)
	e.findsOnly(StreamTailLost)
	if r := e.reconcile(true); r.Done() {
		t.Error("reconcile is content with a stream that lost its tail")
	}
	e.publishMix("instead", 70)
	if !slices.Contains(kinds(e.audit(Scope{})), StreamTailLost) {
		t.Error("a tail with other messages in its place is not found")
	}
	e.findsAmong(StreamTailLost, EventMissing, EventWithoutMessage, DeadLetterChanged)
	e.run()
	testenv.Eventually(e.t, "a new epoch", func() bool { return e.Number(`select count(*) from stream_epochs`) == 2 })
	e.WaitUntilRead()
	r := e.finds(Scope{})
	if r.Comparisons[streamEvents].Unknown == 0 || !strings.Contains(strings.Join(r.Notes, "\n"), "tail that the stream has lost") {
		t.Errorf("no note says that a tail was lost: %+v %q", r.Comparisons[streamEvents], r.Notes)
	}
}

// findsAmong checks that something of these kinds is found, and nothing else.
func (e *testEnv) findsAmong(among ...string) {
	e.t.Helper()
	r := e.audit(Scope{})
	if len(r.Differences) == 0 {
		e.t.Error("nothing is found")
	}
	for _, kind := range kinds(r) {
		if !slices.Contains(among, kind) {
			e.t.Errorf("found %s, want only %q", kind, among)
		}
	}
}

func TestStreamCreatedAgainIsFound(t *testing.T) {
	t.Parallel()
	e := newFilledEnv(t)
	if err := e.JetStream.DeleteStream(t.Context(), ingest.StreamName); err != nil {
		t.Fatal(err)
	}
	e.finds(Scope{}, StreamGone)
	if _, err := ingest.EnsureStream(t.Context(), e.JetStream, ingest.StreamConfig{}); err != nil {
		t.Fatal(err)
	}
	e.finds(Scope{}, StreamGone)
	e.run()
	e.publishMix("b", 60)
	testenv.Eventually(e.t, "a new epoch", func() bool { return e.Number(`select count(*) from stream_epochs`) == 2 })
	e.WaitUntilRead()
	e.finds(Scope{})
}

func TestGapIsFound(t *testing.T) {
	t.Parallel()
	e := newFilledEnv(t)
	stream, err := e.JetStream.Stream(t.Context(), ingest.StreamName)
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	config.DenyDelete = false
	if _, err := e.JetStream.UpdateStream(t.Context(), config); err == nil {
		if err := stream.DeleteMsg(t.Context(), 100); err != nil {
			t.Fatal(err)
		}
		e.finds(Scope{}, StreamGap)
		return
	}
	t.Log("the server keeps deny-delete: a gap can only come from the disk")
	a := &auditor{options: e.options(), report: newReport(Scope{})}
	if a.at, err = loadSnapshot(t.Context(), e.Pool, nil); err != nil {
		t.Fatal(err)
	}
	if err := a.at.loadStream(t.Context(), e.JetStream); err != nil {
		t.Fatal(err)
	}
	if err := a.checkGap(t.Context(), 100, 101); err != nil {
		t.Fatal(err)
	}
	if got := kinds(a.report); !slices.Equal(got, []string{StreamGap}) {
		t.Errorf("found %q", got)
	}
}

// An older copy of the database is behind the stream: a note says so, and the
// aggregator catches up.
func TestRestoredDatabaseIsNotedAndCatchesUp(t *testing.T) {
	t.Parallel()
	e := newTestEnv(t, 3)
	e.run()
	e.publishMix("day", 60)
	e.WaitUntilRead()
	e.stop()
	tables := append([]string{"stream_positions", "batches"}, countedTables...)
	for _, table := range tables {
		e.Exec(`create table saved_` + table + ` as table ` + table)
	}
	e.run()
	e.publishMix("next", 60)
	e.WaitUntilRead()
	e.stop()
	for _, table := range tables {
		e.Exec(`truncate ` + table)
		e.Exec(`insert into ` + table + ` overriding system value table saved_` + table)
	}
	r := e.finds(Scope{})
	if r.Stream.Waiting == 0 || !strings.Contains(strings.Join(r.Notes, "\n"), "older copy of the database") {
		t.Errorf("no note says that the database is behind: %q", r.Notes)
	}
	e.run()
	e.WaitUntilRead()
	if r := e.finds(Scope{}); r.Stream.Waiting != 0 || r.Stream.Events != 120 {
		t.Errorf("stream %+v", r.Stream)
	}
}

// A partition that is read less far than another is no difference.
func TestPartitionThatLagsIsNoDifference(t *testing.T) {
	t.Parallel()
	e := newFilledEnv(t)
	e.Publish(testenv.Email(e.tenants[0], "late one", 3))
	e.run()
	e.WaitUntilRead()
	e.stop()
	e.Exec(`update usage_counters c set count = c.count - 3 from usage_events e
		where e.idempotency_key = 'late one' and c.tenant_id = e.tenant_id and c.agent = e.agent and c.period_start = e.period_start`)
	e.Exec(`delete from usage_events where idempotency_key = 'late one'`)
	e.finds(Scope{}, EventMissing)
	e.Exec(`update stream_positions set seq = seq - 1, stored_at = null where partition = $1`, odometer.PartitionOf(e.tenants[0], 4))
	if r := e.finds(Scope{}); r.Stream.Waiting != 1 {
		t.Errorf("%d messages wait, want 1", r.Stream.Waiting)
	}
}
