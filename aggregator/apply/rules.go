package apply

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"odometer"
	"odometer/billing"
)

// rules are a cache of what one partition's batches are classified by: the
// catalogue, and the subscriptions and periods of the tenants that send. They
// are at least as new as version. If version is still the partition's when a
// batch commits, the rules were those in force; when it has moved, all of them
// are forgotten.
type rules struct {
	loaded  bool
	version int64
	agents  map[string]*odometer.Agent
	tenants map[uuid.UUID]*billing.Tenant // nil: has no subscription
}

// maxTenants bounds the memory for tenants; beyond it, reading them again is
// cheaper than keeping them.
const maxTenants = 100_000

func (r *rules) forget() { r.loaded = false }

// trim forgets the tenants when there are too many, between two batches.
func (r *rules) trim() {
	if len(r.tenants) > maxTenants {
		r.tenants = map[uuid.UUID]*billing.Tenant{}
	}
}

// load makes sure that the rules for all these items are loaded.
func (r *rules) load(ctx context.Context, a *Applier, items []Item) error {
	if !r.loaded {
		if err := r.begin(ctx, a); err != nil {
			return err
		}
	}
	var missing []uuid.UUID
	for n := range items {
		if items[n].Reject != nil {
			continue
		}
		tenant := items[n].Event.Tenant
		if _, ok := r.tenants[tenant]; !ok {
			r.tenants[tenant] = nil
			missing = append(missing, tenant)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	found, err := billing.LoadTenants(ctx, a.Pool, missing, a.Since)
	if err != nil {
		r.forget()
		return err
	}
	for id, tenant := range found {
		r.tenants[id] = tenant
	}
	return nil
}

const rulesVersionSQL = `
select rules_version
from stream_positions
where partition = $1`

// begin reads the version first: what is read after it may be newer, which the
// commit finds out, but never older.
func (r *rules) begin(ctx context.Context, a *Applier) error {
	if err := a.Pool.QueryRow(ctx, rulesVersionSQL, a.Partition).Scan(&r.version); err != nil {
		return fmt.Errorf("read the rules version of partition %d: %w", a.Partition, err)
	}
	catalogue, err := billing.LoadCatalogue(ctx, a.Pool)
	if err != nil && !errors.Is(err, billing.ErrNoCatalogue) {
		return err
	}
	r.loaded = true
	r.tenants = map[uuid.UUID]*billing.Tenant{}
	r.agents = make(map[string]*odometer.Agent, len(catalogue.Agents))
	for n := range catalogue.Agents {
		r.agents[catalogue.Agents[n].ID] = &catalogue.Agents[n]
	}
	return nil
}

// ClosedUntil is the end of a tenant's last closed period, nil for none. The
// tenant must be one of the last batch.
func (a *Applier) ClosedUntil(id uuid.UUID) *time.Time {
	tenant := a.rules.tenants[id]
	if tenant == nil {
		return nil
	}
	var until *time.Time
	for n := range tenant.Periods {
		if tenant.Periods[n].ClosedAt != nil {
			until = &tenant.Periods[n].End
		}
	}
	return until
}
