package httpingest

import (
	"sync"

	"github.com/google/uuid"
)

// gate bounds the bodies that are held at once: in all, and of each tenant, so
// that one whose bodies come slowly keeps no other out.
type gate struct {
	all, each int

	mu     sync.Mutex
	inside int
	of     map[uuid.UUID]int
}

// shares is how many tenants it takes to fill the gate.
const shares = 4

func newGate(all int) *gate {
	return &gate{all: all, each: max(1, all/shares), of: map[uuid.UUID]int{}}
}

// enter lets a body in, or reports that there is no room.
func (g *gate) enter(tenant uuid.UUID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inside == g.all || g.of[tenant] == g.each {
		return false
	}
	g.inside++
	g.of[tenant]++
	return true
}

func (g *gate) leave(tenant uuid.UUID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if g.of[tenant]--; g.of[tenant] == 0 {
		delete(g.of, tenant)
	}
}
