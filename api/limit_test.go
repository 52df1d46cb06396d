package api

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"
)

// clock is a time that tests move.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func TestLimitIsExactInEveryWindow(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const window = time.Minute
		n := rapid.IntRange(1, 12).Draw(t, "n")
		c := &clock{time.Unix(0, 0)}
		l := newLimiter(n, window, c.now)
		tenants := []uuid.UUID{uuid.New(), uuid.New()}
		taken := map[reader][]time.Time{}
		for range rapid.IntRange(1, 200).Draw(t, "requests") {
			c.at = c.at.Add(time.Duration(rapid.Int64Range(0, int64(30*time.Second)).Draw(t, "gap")))
			who := reader{role: rapid.SampledFrom([]Role{Tenant, Admin}).Draw(t, "role"), tenant: rapid.SampledFrom(tenants).Draw(t, "tenant")}
			inside := 0
			var leaves time.Time // when the oldest one inside leaves
			for _, at := range taken[who] {
				if c.at.Sub(at) < window {
					inside++
					if leaves.IsZero() {
						leaves = at.Add(window)
					}
				}
			}
			wait, ok := l.take(who)
			if ok != (inside < n) {
				t.Fatalf("request at %v with %d of %d in the window: let through %v", c.at, inside, n, ok)
			}
			if ok {
				taken[who] = append(taken[who], c.at)
			} else if !c.at.Add(wait).Equal(leaves) {
				t.Fatalf("wait %v, the oldest leaves at %v", wait, leaves)
			}
		}
	})
}

func TestIdleReadersAreForgotten(t *testing.T) {
	t.Parallel()
	c := &clock{time.Unix(0, 0)}
	l := newLimiter(10, time.Minute, c.now)
	for range 10_000 {
		l.take(reader{role: Tenant, tenant: uuid.New()})
	}
	for range 2 {
		c.at = c.at.Add(time.Minute)
		l.take(reader{role: Tenant})
	}
	if left := len(l.recent) + len(l.older); left > 2 {
		t.Errorf("%d readers are remembered", left)
	}
}

func TestNoLimitIsNoLimit(t *testing.T) {
	t.Parallel()
	l := newLimiter(0, time.Minute, time.Now)
	for range 1000 {
		if _, ok := l.take(reader{}); !ok {
			t.Fatal("refused")
		}
	}
}
