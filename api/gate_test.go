package api

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/google/uuid"
)

func TestOneTenantKeepsNoOtherOut(t *testing.T) {
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
func TestWhoWaitsIsLetInWhenAnotherLeaves(t *testing.T) {
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

func TestWhoGivesUpLeavesNothingBehind(t *testing.T) {
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
	if g.inside != 0 || len(g.of) != 0 || len(g.waiting) != 0 {
		t.Errorf("%d inside, of %v, %d waiting, when all have left", g.inside, g.of, len(g.waiting))
	}
}
