package api

import (
	"context"
	"runtime"
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
		taken := map[limiterKey][]time.Time{}
		for range rapid.IntRange(1, 200).Draw(t, "requests") {
			c.at = c.at.Add(time.Duration(rapid.Int64Range(0, int64(30*time.Second)).Draw(t, "gap")))
			who := limiterKey{role: rapid.SampledFrom([]Role{Tenant, Admin}).Draw(t, "role"), tenant: rapid.SampledFrom(tenants).Draw(t, "tenant")}
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

func TestIdleLimiterKeysAreDropped(t *testing.T) {
	t.Parallel()
	c := &clock{time.Unix(0, 0)}
	l := newLimiter(10, time.Minute, c.now)
	for range 10_000 {
		l.take(limiterKey{role: Tenant, tenant: uuid.New()})
	}
	for range 2 {
		c.at = c.at.Add(time.Minute)
		l.take(limiterKey{role: Tenant})
	}
	if left := len(l.recent) + len(l.older); left > 2 {
		t.Errorf("%d readers are remembered", left)
	}
}

func TestNoLimitIsNoLimit(t *testing.T) {
	t.Parallel()
	l := newLimiter(0, time.Minute, time.Now)
	for range 1000 {
		if _, ok := l.take(limiterKey{}); !ok {
			t.Fatal("refused")
		}
	}
}

func TestOneTenantCannotTakeAllSlots(t *testing.T) {
	t.Parallel()
	g := NewGate(4, 2, 0)
	one, two, three := uuid.New(), uuid.New(), uuid.New()
	enters := func(who uuid.UUID, want bool) {
		t.Helper()
		if got := g.Enter(t.Context(), who); got != want {
			t.Errorf("entered %v, want %v", got, want)
		}
	}
	enters(one, true)
	enters(one, true)
	enters(one, false)
	enters(two, true)
	enters(three, true)
	enters(two, false) // it is full
	g.Leave(one)
	enters(two, true)
	g.Leave(one)
	g.Leave(two)
	g.Leave(two)
	g.Leave(three)
	empty(t, g)
}

// The first who waits and for whom there is room comes first, past those whose
// tenant has its share.
func TestAWaitingRequestGetsAFreedSlot(t *testing.T) {
	t.Parallel()
	g := NewGate(3, 2, time.Hour)
	one, two := uuid.New(), uuid.New()
	for _, who := range []uuid.UUID{one, one, two} {
		g.Enter(t.Context(), who)
	}
	entered := make(chan uuid.UUID)
	for i, who := range []uuid.UUID{one, one, two} {
		go func() {
			if g.Enter(context.Background(), who) {
				entered <- who
			}
		}()
		for g.waiters() != i+1 {
			runtime.Gosched()
		}
	}
	for _, c := range []struct{ leaves, enters uuid.UUID }{{two, two}, {one, one}, {one, one}} {
		g.Leave(c.leaves)
		if who := <-entered; who != c.enters {
			t.Fatalf("%s was let in, want %s", who, c.enters)
		}
	}
	for _, who := range []uuid.UUID{one, one, two} {
		g.Leave(who)
	}
	empty(t, g)
}

func TestATimedOutRequestLeavesTheQueue(t *testing.T) {
	t.Parallel()
	g := NewGate(1, 1, time.Hour)
	who := uuid.New()
	g.Enter(t.Context(), who)
	ctx, cancel := context.WithCancel(t.Context())
	gave := make(chan bool)
	go func() { gave <- g.Enter(ctx, who) }()
	for g.waiters() != 1 {
		runtime.Gosched()
	}
	cancel()
	if <-gave {
		t.Error("it was let in where there is no room")
	}
	g.Leave(who)
	empty(t, g)
}

func (g *Gate) waiters() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.waiting)
}

func empty(t *testing.T, g *Gate) {
	t.Helper()
	if g.running != 0 || len(g.of) != 0 || len(g.waiting) != 0 {
		t.Errorf("%d inside, of %v, %d waiting, when all have left", g.running, g.of, len(g.waiting))
	}
}
