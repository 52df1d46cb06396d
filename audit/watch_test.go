package audit

import (
	"log/slog"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func (h *house) watch() *Watch {
	h.t.Helper()
	return NewWatch(h.pool, h.js, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
}

// sees checks what a look finds broken.
func (h *house) sees(w *Watch, want ...string) {
	h.t.Helper()
	broken, err := w.Look(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	if !slices.Equal(broken, want) {
		h.t.Errorf("broken %q, want %q", broken, want)
	}
}

func TestTheWatchIsQuietWhileBooksAreRight(t *testing.T) {
	t.Parallel()
	h := newHouse(t, 3)
	h.run()
	w := h.watch()
	for _, batch := range []string{"a", "b", "c", "d"} {
		h.sees(w)
		h.life(batch, 60)
		h.sees(w) // while it is being read
		h.settled()
		h.sees(w)
	}
}

func TestTheWatchSeesWhatBatchesDidNotDo(t *testing.T) {
	t.Parallel()
	h := newHouse(t, 3)
	h.run()
	h.life("a", 60)
	h.settled()
	w := h.watch()
	h.sees(w)
	h.exec(`update usage_counters set count = count + 1 where ctid = (select ctid from usage_counters limit 1)`)
	h.sees(w, CountersGrow)
	h.sees(w)
	h.exec(`delete from batches where batch_id = (select max(batch_id) from batches where units > 0)`)
	h.sees(w, CountersGrow, SequencesAccounted)
	h.stop()
	h.exec(`update stream_positions set seq = seq + 100000`)
	if broken, err := w.Look(t.Context()); err != nil || !slices.Contains(broken, PositionsInStream) {
		t.Errorf("broken %q, %v", broken, err)
	}
}
