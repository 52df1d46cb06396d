package api

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
)

// limiterKey is whose requests are counted together. An admin who reads a tenant
// does not use up the tenant's own limit.
type limiterKey struct {
	role    Role
	tenant  uuid.UUID
	subject string // on operators' routes, which are about no tenant
}

// limiter lets n requests of a key through within any window, exactly: it
// remembers when each of the last n was let through. The known libraries
// (httprate among them) keep two fixed windows and weigh the older one's count
// by how much of it still overlaps: an estimate, which refuses a tenth request
// or lets an eleventh through depending on where the clock's minute begins.
type limiter struct {
	n      int // 0: no limit
	window time.Duration
	now    func() time.Time

	mu sync.Mutex
	// Keys used since the last rotation, and those of the rotation before.
	// Rotations are at least a window apart, so a dropped key was idle for one.
	recent, older map[limiterKey]*ring
	rotated       time.Time
}

// ring holds the times of the last requests; once full, next is the oldest.
type ring struct {
	times []time.Time
	next  int
}

func newLimiter(n int, window time.Duration, now func() time.Time) *limiter {
	return &limiter{n: max(0, n), window: window, now: now, recent: map[limiterKey]*ring{}, rotated: now()}
}

// take counts a request, or rejects it: then wait is how long until the next one
// is accepted. A rejected request is not counted.
func (l *limiter) take(who limiterKey) (wait time.Duration, ok bool) {
	if l.n == 0 {
		return 0, true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	r := l.find(who, now)
	if len(r.times) < l.n {
		r.times = append(r.times, now)
		return 0, true
	}
	if wait = l.window - now.Sub(r.times[r.next]); wait > 0 {
		return wait, false
	}
	r.times[r.next] = now
	r.next = (r.next + 1) % l.n
	return 0, true
}

func (l *limiter) find(who limiterKey, now time.Time) *ring {
	if now.Sub(l.rotated) >= l.window {
		l.older, l.recent, l.rotated = l.recent, map[limiterKey]*ring{}, now
	}
	r := l.recent[who]
	if r == nil {
		r = l.older[who]
	}
	if r == nil {
		r = &ring{}
	}
	l.recent[who] = r
	return r
}

// Gate bounds how many requests of one kind run at once: in all, so that others
// keep processors and connections, and of each tenant, so that none shuts out
// the others. A request waits up to patience for a slot, so that short bursts
// are not rejected.
type Gate struct {
	all, each int
	patience  time.Duration

	mu      sync.Mutex
	running int
	of      map[uuid.UUID]int // running requests of each tenant
	waiting []*waiter         // in order of arrival; no slot is free for any of them
}

// waiter is a request that waits for a slot.
type waiter struct {
	tenant   uuid.UUID
	admitted chan struct{} // closed when it has a slot
}

// NewGate makes a gate for all requests in total and each per tenant.
func NewGate(all, each int, patience time.Duration) *Gate {
	return &Gate{all: all, each: each, patience: patience, of: map[uuid.UUID]int{}}
}

// Enter returns true as soon as the request has a slot, and false when there was
// none in time.
func (g *Gate) Enter(ctx context.Context, tenant uuid.UUID) bool {
	w := g.join(tenant)
	if w == nil {
		return true
	}
	patience := time.NewTimer(g.patience)
	defer patience.Stop()
	select {
	case <-w.admitted:
		return true
	case <-patience.C:
	case <-ctx.Done():
	}
	return !g.withdraw(w)
}

// Leave frees the slot of a request that had entered.
func (g *Gate) Leave(tenant uuid.UUID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running--
	if g.of[tenant]--; g.of[tenant] == 0 {
		delete(g.of, tenant)
	}
	if i := slices.IndexFunc(g.waiting, func(w *waiter) bool { return g.hasRoom(w.tenant) }); i >= 0 {
		g.admit(g.waiting[i].tenant)
		close(g.waiting[i].admitted)
		g.waiting = slices.Delete(g.waiting, i, i+1)
	}
}

// Running is how many requests have a slot.
func (g *Gate) Running() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.running
}

// join takes a slot and returns nil, or queues the request. A free slot means
// that no other request of the tenant waits, so none is overtaken.
func (g *Gate) join(tenant uuid.UUID) *waiter {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.hasRoom(tenant) {
		g.admit(tenant)
		return nil
	}
	w := &waiter{tenant: tenant, admitted: make(chan struct{})}
	g.waiting = append(g.waiting, w)
	return w
}

// withdraw removes a waiter, and reports whether it was still waiting.
func (g *Gate) withdraw(w *waiter) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.Index(g.waiting, w)
	if i >= 0 {
		g.waiting = slices.Delete(g.waiting, i, i+1)
	}
	return i >= 0
}

func (g *Gate) hasRoom(tenant uuid.UUID) bool { return g.running < g.all && g.of[tenant] < g.each }

func (g *Gate) admit(tenant uuid.UUID) {
	g.running++
	g.of[tenant]++
}
