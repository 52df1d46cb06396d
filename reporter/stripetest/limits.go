package stripetest

import (
	"sync"
	"sync/atomic"
	"time"
)

// flight counts the requests that are under way.
type flight struct{ now, most atomic.Int64 }

func (f *flight) enter() {
	n := f.now.Add(1)
	for {
		most := f.most.Load()
		if n <= most || f.most.CompareAndSwap(most, n) {
			return
		}
	}
}

func (f *flight) leave() { f.now.Add(-1) }

// MaxInFlight is the most requests that were under way at once.
func (s *Server) MaxInFlight() int { return int(s.flight.most.Load()) }

// locks hold what one request at a time may touch. Nobody waits for one.
type locks struct {
	mu   sync.Mutex
	held map[string]struct{}
}

func (l *locks) take(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, busy := l.held[name]; busy {
		return false
	}
	if l.held == nil {
		l.held = map[string]struct{}{}
	}
	l.held[name] = struct{}{}
	return true
}

func (l *locks) free(name string) {
	l.mu.Lock()
	delete(l.held, name)
	l.mu.Unlock()
}

// bucket is the token bucket of the rate limit: a second's worth at once.
type bucket struct {
	mu           sync.Mutex
	rate, tokens float64
	last         time.Time
}

func newBucket(rate float64) *bucket { return &bucket{rate: rate, tokens: max(1, rate)} }

func (b *bucket) take(now time.Time) bool {
	if b.rate <= 0 {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.last.IsZero() {
		b.tokens = min(max(1, b.rate), b.tokens+b.rate*now.Sub(b.last).Seconds())
	}
	b.last = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
