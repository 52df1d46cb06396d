package aggregator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
	"odometer/billing"
)

// ruleCache is what one partition's batches are judged by: the catalogue
// and the periods of the tenants that send. Each was read after version, so a
// batch that commits under the same version was judged by the terms of that
// moment; when the version has moved, all of it is forgotten.
type ruleCache struct {
	partition int
	since     time.Time // no message of the stream can have occurred before

	known   bool
	version int64
	agents  map[string]*odometer.Agent
	tenants map[uuid.UUID]*billing.Tenant // nil: has no subscription
}

// maxTenantsKept bounds the memory for tenants; beyond it, reading them again
// is cheaper than keeping them.
const maxTenantsKept = 100_000

func (t *ruleCache) forget() { t.known = false }

const rulesVersionSQL = `
select rules_version
from stream_positions
where partition = $1`

// prepare makes sure that the terms of all these events are known.
func (t *ruleCache) prepare(ctx context.Context, pool *pgxpool.Pool, items []item, m *Metrics) error {
	if !t.known {
		if err := t.begin(ctx, pool, m); err != nil {
			return err
		}
	}
	var missing []uuid.UUID
	for i := range items {
		if items[i].reject != nil {
			continue
		}
		tenant := items[i].event.Tenant
		if _, ok := t.tenants[tenant]; !ok {
			t.tenants[tenant] = nil
			missing = append(missing, tenant)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	found, err := billing.LoadTenants(ctx, pool, missing, t.since)
	if err != nil {
		t.forget()
		return err
	}
	for id, tenant := range found {
		t.tenants[id] = tenant
	}
	return nil
}

// begin reads the version first: what is read after it may be newer, which the
// commit finds out, but never older.
func (t *ruleCache) begin(ctx context.Context, pool *pgxpool.Pool, m *Metrics) error {
	rows, _ := pool.Query(ctx, rulesVersionSQL, t.partition)
	version, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[int64])
	if err != nil {
		return fmt.Errorf("read the terms of partition %d: %w", t.partition, err)
	}
	catalogue, err := billing.LoadCatalogue(ctx, pool)
	if err != nil && !errors.Is(err, billing.ErrNoCatalogue) {
		return err
	}
	m.know(&catalogue)
	t.version, t.known = version, true
	t.tenants = map[uuid.UUID]*billing.Tenant{}
	t.agents = make(map[string]*odometer.Agent, len(catalogue.Agents))
	for i := range catalogue.Agents {
		t.agents[catalogue.Agents[i].ID] = &catalogue.Agents[i]
	}
	return nil
}

// trim forgets tenants when there are too many, between two batches.
func (t *ruleCache) trim() {
	if len(t.tenants) > maxTenantsKept {
		t.tenants = map[uuid.UUID]*billing.Tenant{}
	}
}
