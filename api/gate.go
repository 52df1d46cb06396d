package api

import (
	"sync"

	"github.com/google/uuid"
)

// Gate bounds how many requests of one sort are inside at once: in all, so that
// they leave the processors and connections that others need, and of each
// tenant, so that one keeps no other out.
type Gate struct {
	all, each int

	mu     sync.Mutex
	inside int
	of     map[uuid.UUID]int
}

// NewGate makes a gate.
func NewGate(all, each int) *Gate { return &Gate{all: all, each: each, of: map[uuid.UUID]int{}} }

// Enter lets a request in, or reports that there is no room.
func (g *Gate) Enter(tenant uuid.UUID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inside == g.all || g.of[tenant] == g.each {
		return false
	}
	g.inside++
	g.of[tenant]++
	return true
}

// Leave says that a request which had entered is done.
func (g *Gate) Leave(tenant uuid.UUID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if g.of[tenant]--; g.of[tenant] == 0 {
		delete(g.of, tenant)
	}
}

// Inside is how many requests are inside.
func (g *Gate) Inside() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.inside
}
