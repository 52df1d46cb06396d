package reporter

import (
	"sync"
	"testing"
	"time"

	"odometer/reporter/stripetest"
)

func TestMoreThan15DigitsAreSentInParts(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a := env.november("a")
	const most = 2_500_000_000_000_000
	a.use("inbox", 500+most)
	env.expect(env.report(), 3, 0)
	a.expectMeterTotal("inbox", most)
	a.use("inbox", 500)
	env.expect(env.report(), 3, 0)
	a.expectMeterTotal("inbox", 0)
}

func TestTimestampKeepsAMinuteFromTheEnds(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 11, 1, 10, 0, 0, 123456000, time.UTC)
	for _, length := range []time.Duration{time.Second, time.Minute, 2 * time.Minute, 2*time.Minute + time.Second, time.Hour, 720 * time.Hour} {
		p := &period{start: start, end: start.Add(length)}
		keep := edgeMargin
		if length < 2*edgeMargin+2*time.Second {
			keep = 0 // there is no room
		}
		for _, now := range []time.Time{start.Add(-time.Hour), start, start.Add(length / 3), start.Add(length), start.Add(2 * length)} {
			at := p.timestamp(now)
			switch {
			case length > time.Second && !p.contains(at):
				t.Errorf("a period of %s at %s: %s is outside", length, now, at)
			case at.Sub(p.start) < keep && keep > 0, p.end.Sub(at) < keep:
				t.Errorf("a period of %s at %s: %s is at its edge", length, now, at)
			case !at.Equal(at.Truncate(time.Second)):
				t.Errorf("%s is no whole second", at)
			}
			if from, to := p.summaryWindow(); at.Before(from) || !at.Before(to) {
				t.Errorf("%s is outside of the window from %s to %s", at, from, to)
			}
		}
	}
}

func TestConcurrentReportersReportOnce(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, func(o *stripetest.Options) { o.Latency = time.Millisecond })
	all := env.tenantsOver(30)
	reporters := []*Reporter{env.Reporter, env.reporter(MeterEvents), env.reporter(MeterEvents)}
	env.posts()
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
		expectMeterTotals(all, int64(10+10*round))
		if n := len(env.posts()); n != 30*(round+1) {
			t.Errorf("%d calls were made, want %d", n, 30*(round+1))
		}
		for _, a := range all {
			a.use("inbox", 520)
		}
	}
}
