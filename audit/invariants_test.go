package audit

import (
	"log/slog"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func (e *testEnv) monitor() *Monitor {
	e.t.Helper()
	return NewMonitor(e.Pool, e.JetStream, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
}

// check checks which invariants a check finds violated.
func (e *testEnv) check(m *Monitor, want ...string) {
	e.t.Helper()
	violated, err := m.Check(e.t.Context())
	if err != nil {
		e.t.Fatal(err)
	}
	if !slices.Equal(violated, want) {
		e.t.Errorf("violated %q, want %q", violated, want)
	}
}

func TestInvariantsHoldWhileEventsAreCounted(t *testing.T) {
	t.Parallel()
	e := newTestEnv(t, 3)
	e.run()
	m := e.monitor()
	for _, batch := range []string{"a", "b", "c", "d"} {
		e.check(m)
		e.publishMix(batch, 60)
		e.check(m) // while it is being read
		e.WaitUntilRead()
		e.check(m)
	}
}

func TestInvariantsFindWhatBatchesDidNotDo(t *testing.T) {
	t.Parallel()
	e := newTestEnv(t, 3)
	e.run()
	e.publishMix("a", 60)
	e.WaitUntilRead()
	m := e.monitor()
	e.check(m)
	e.Exec(`update usage_counters set count = count + 1 where ctid = (select ctid from usage_counters limit 1)`)
	e.check(m, CountersGrow)
	e.check(m)
	e.Exec(`delete from batches where batch_id = (select max(batch_id) from batches where units > 0)`)
	e.check(m, CountersGrow, SequencesAccounted)
	e.stop()
	e.Exec(`update stream_positions set seq = seq + 100000`)
	if violated, err := m.Check(t.Context()); err != nil || !slices.Contains(violated, PositionsInStream) {
		t.Errorf("violated %q, %v", violated, err)
	}
}
