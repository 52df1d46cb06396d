package reporter

import (
	"sync"
	"testing"
	"time"

	"odometer/reporter/stripetest"
)

func TestMoreThan15DigitsGoInParts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.month("a")
	const most = 2_500_000_000_000_000
	a.use("inbox", 500+most)
	w.expect(w.report(), 3, 0)
	a.expectAt("inbox", most)
	a.use("inbox", 500)
	w.expect(w.report(), 3, 0)
	a.expectAt("inbox", 0)
}

func TestTimestampKeepsAMinuteFromTheEnds(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 11, 1, 10, 0, 0, 123456000, time.UTC)
	for _, length := range []time.Duration{time.Second, time.Minute, 2 * time.Minute, 2*time.Minute + time.Second, time.Hour, 720 * time.Hour} {
		p := &period{start: start, end: start.Add(length)}
		keep := edge
		if length < 2*edge+2*time.Second {
			keep = 0 // there is no room
		}
		for _, now := range []time.Time{start.Add(-time.Hour), start, start.Add(length / 3), start.Add(length), start.Add(2 * length)} {
			at := p.timestamp(now)
			switch {
			case length > time.Second && !p.holds(at):
				t.Errorf("a period of %s at %s: %s is outside", length, now, at)
			case at.Sub(p.start) < keep && keep > 0, p.end.Sub(at) < keep:
				t.Errorf("a period of %s at %s: %s is at its edge", length, now, at)
			case !at.Equal(at.Truncate(time.Second)):
				t.Errorf("%s is no whole second", at)
			}
			if from, to := p.window(); at.Before(from) || !at.Before(to) {
				t.Errorf("%s is outside of the window from %s to %s", at, from, to)
			}
		}
	}
}

func TestReportersAtOnceTellOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *stripetest.Options) { o.Latency = time.Millisecond })
	all := w.crowd(30)
	reporters := []*Reporter{w.Reporter, w.reporter(MeterEvents), w.reporter(MeterEvents)}
	w.posts()
	for round := range 2 {
		var group sync.WaitGroup
		for i := range 24 { // more than the pool has connections
			group.Go(func() {
				if _, err := reporters[i%len(reporters)].Pass(t.Context(), Scope{ByHand: i%2 == 0}); err != nil {
					t.Errorf("a pass beside others ended with %v", err)
				}
			})
		}
		group.Wait()
		expectAllAt(all, int64(10+10*round))
		if n := len(w.posts()); n != 30*(round+1) {
			t.Errorf("%d calls were made, want %d", n, 30*(round+1))
		}
		for _, a := range all {
			a.use("inbox", 520)
		}
	}
}
