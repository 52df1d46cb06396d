package api

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
)

// Gate bounds how many requests of one sort are inside at once: in all, so that
// they leave the processors and connections that others need, and of each
// tenant, so that one keeps no other out. Who finds no room waits for a while:
// a burst that is over in a moment is refused nothing.
type Gate struct {
	all, each int
	patience  time.Duration

	mu      sync.Mutex
	inside  int
	of      map[uuid.UUID]int
	waiting []*waiter // in the order in which they came; for none of them is there room
}

// waiter is a request that waits for room.
type waiter struct {
	tenant uuid.UUID
	called chan struct{} // closed when it is inside
}

// NewGate makes a gate before which nobody waits longer than patience.
func NewGate(all, each int, patience time.Duration) *Gate {
	return &Gate{all: all, each: each, patience: patience, of: map[uuid.UUID]int{}}
}

// Enter lets a request in as soon as there is room, or reports that there was
// none in time.
func (g *Gate) Enter(ctx context.Context, tenant uuid.UUID) bool {
	w := g.join(tenant)
	if w == nil {
		return true
	}
	patience := time.NewTimer(g.patience)
	defer patience.Stop()
	select {
	case <-w.called:
		return true
	case <-patience.C:
	case <-ctx.Done():
	}
	return !g.withdraw(w)
}

// Leave says that a request which had entered is done.
func (g *Gate) Leave(tenant uuid.UUID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if g.of[tenant]--; g.of[tenant] == 0 {
		delete(g.of, tenant)
	}
	if i := slices.IndexFunc(g.waiting, func(w *waiter) bool { return g.hasRoom(w.tenant) }); i >= 0 {
		g.letIn(g.waiting[i].tenant)
		close(g.waiting[i].called)
		g.waiting = slices.Delete(g.waiting, i, i+1)
	}
}

// Inside is how many requests are inside.
func (g *Gate) Inside() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.inside
}

// join lets a request in, or has it wait; nil: it is inside. Where there is room
// for it nobody of its tenant waits, so it comes before no other.
func (g *Gate) join(tenant uuid.UUID) *waiter {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.hasRoom(tenant) {
		g.letIn(tenant)
		return nil
	}
	w := &waiter{tenant: tenant, called: make(chan struct{})}
	g.waiting = append(g.waiting, w)
	return w
}

// withdraw takes a waiter away, and reports whether it was still waiting.
func (g *Gate) withdraw(w *waiter) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.Index(g.waiting, w)
	if i >= 0 {
		g.waiting = slices.Delete(g.waiting, i, i+1)
	}
	return i >= 0
}

func (g *Gate) hasRoom(tenant uuid.UUID) bool { return g.inside < g.all && g.of[tenant] < g.each }

func (g *Gate) letIn(tenant uuid.UUID) {
	g.inside++
	g.of[tenant]++
}
