package api

import (
	"sync"
	"time"

	"github.com/google/uuid"
)

// reader is whose requests are counted together. An admin who looks at a
// tenant does not use up what the tenant may ask.
type reader struct {
	role    Role
	tenant  uuid.UUID
	subject string // on operators' routes, which are about no tenant
}

// limiter lets n requests of a reader through within any window, exactly: it
// remembers when each of the last n was let through. The known libraries
// (httprate among them) keep two fixed windows and weigh the older one's count
// by how much of it still overlaps: an estimate, which refuses a tenth request
// or lets an eleventh through depending on where the clock's minute begins.
type limiter struct {
	n      int // 0: no limit
	window time.Duration
	now    func() time.Time

	mu sync.Mutex
	// Readers who came since the last turn, and those of the turn before. Turns
	// are at least a window apart, so whoever falls out has been idle for one.
	recent, older map[reader]*ring
	turned        time.Time
}

// ring holds the times of the last requests; once full, next is the oldest.
type ring struct {
	times []time.Time
	next  int
}

func newLimiter(n int, window time.Duration, now func() time.Time) *limiter {
	return &limiter{n: max(0, n), window: window, now: now, recent: map[reader]*ring{}, turned: now()}
}

// take counts a request of the reader, or refuses it: then wait is how long
// until one is let through again. A refused request is not counted.
func (l *limiter) take(who reader) (wait time.Duration, ok bool) {
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

func (l *limiter) find(who reader, now time.Time) *ring {
	if now.Sub(l.turned) >= l.window {
		l.older, l.recent, l.turned = l.recent, map[reader]*ring{}, now
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
