package bench

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestDelayEndsWithTheFirstObservation(t *testing.T) {
	begin := time.Now()
	at := func(ms int) time.Time { return begin.Add(time.Duration(ms) * time.Millisecond) }
	seen := [][]observation{
		{{at(0), 0}, {at(5), 3}, {at(9), 8}},
		{{at(0), 2}},
	}
	published := []publication{
		{at: at(1), partition: 0, seq: 1},
		{at: at(1), partition: 0, seq: 3},
		{at: at(2), partition: 0, seq: 4},
		{at: at(0), partition: 1, seq: 2},
	}
	got, err := delayOf(published, seen)
	want := []time.Duration{4 * time.Millisecond, 4 * time.Millisecond, 7 * time.Millisecond, 0}
	if err != nil || !cmp.Equal(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	if _, err := delayOf([]publication{{at: at(1), partition: 1, seq: 3}}, seen); err == nil {
		t.Error("a message that was never counted has a delay")
	}
}

func TestRatiosAreTakenByRound(t *testing.T) {
	itself := func(f float64) float64 { return f }
	// The second round met a machine that was half as fast.
	if got := medianRatio([]float64{200, 100, 220}, []float64{20, 10, 20}, itself); got != 10 {
		t.Errorf("got %v, want 10", got)
	}
	if got := median([]float64{4, 1, 3, 2}, itself); got != 2.5 {
		t.Errorf("got %v, want 2.5", got)
	}
}

func TestParseStat(t *testing.T) {
	const line = "4711 (postgres: (x) y) S 12 4711 4711 0 -1 4194304 5 6 7 8 150 50 30 20 20 0 1 0 99 1 2"
	want := processTime{pid: 4711, parent: 12, own: 2 * time.Second, ended: 500 * time.Millisecond}
	if got, ok := parseStat(line); !ok || got != want {
		t.Errorf("got %+v, %v; want %+v", got, ok, want)
	}
	for _, line := range []string{"", "1", "1 (x) S", "1 (x S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15"} {
		if got, ok := parseStat(line); ok {
			t.Errorf("%q was read as %+v", line, got)
		}
	}
}

// What is repeated was there before, each once, so that the aggregator has something to skip.
func TestRepeatsWerePublishedBefore(t *testing.T) {
	const n = 1000
	list, fresh := newWorkload(10).repeated(n, repeats)
	if len(list) != n || fresh != 50 {
		t.Fatalf("%d events of which %d are new; want %d and 50", len(list), fresh, n)
	}
	seen := map[int]bool{}
	old := 0
	for _, i := range list {
		if seen[i] {
			t.Errorf("event %d comes twice", i)
		}
		seen[i] = true
		if i < n {
			old++
		}
	}
	if old != n-fresh {
		t.Errorf("%d are repeats, want %d", old, n-fresh)
	}
}
