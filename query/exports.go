package query

import (
	"sync"

	"github.com/google/uuid"
)

// maxExports is how many files are written at once: each holds a connection of
// the database as long as its client takes.
const maxExports = 4

// exports are the tenants whose files are being written, one for each.
type exports struct {
	mu      sync.Mutex
	tenants map[uuid.UUID]bool
}

// enter reports whether another file can be written, and counts it if so.
func (e *exports) enter(tenant uuid.UUID) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.tenants) >= maxExports || e.tenants[tenant] {
		return false
	}
	if e.tenants == nil {
		e.tenants = map[uuid.UUID]bool{}
	}
	e.tenants[tenant] = true
	return true
}

// leave says that the tenant's file is written, or given up.
func (e *exports) leave(tenant uuid.UUID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.tenants, tenant)
}
