package replay

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"odometer/aggregator/apply"
)

// counterRebuild sets the counters of restored events to the sum of their
// events. It does that once for each: from then on Insert adds to both, as
// everybody does.
type counterRebuild struct {
	rebuilt  map[counterKey]bool
	negative map[counterKey]int64 // counters whose events sum to less than zero
}

// counterKey names a counter.
type counterKey struct {
	tenant uuid.UUID
	agent  string
	period int64 // its start in microseconds
}

func keyOf(tenant uuid.UUID, agent string, period time.Time) counterKey {
	return counterKey{tenant, agent, period.UnixMicro()}
}

// counterTotal is a counter's true value.
type counterTotal struct {
	Tenant uuid.UUID
	Agent  string
	Period time.Time
	Total  int64
}

// lowers reports whether some of the events lower a counter. Insert must leave
// the counters of such a batch alone: what they are lowered from may be restored
// only later.
func lowers(events []*apply.Item) bool {
	return slices.ContainsFunc(events, func(i *apply.Item) bool { return i.Event.Quantity < 0 })
}

// set sets the counters of the restored events, those that are not rebuilt yet
// or all of them, and returns their totals.
func (c *counterRebuild) set(ctx context.Context, tx pgx.Tx, inserted []*apply.Item, all bool) ([]counterTotal, error) {
	var tenants []uuid.UUID
	var agents []string
	var periods []time.Time
	seen := map[counterKey]bool{}
	for _, i := range inserted {
		key := keyOf(i.Event.Tenant, i.Event.Agent, i.Period)
		if seen[key] || c.rebuilt[key] && !all {
			continue
		}
		seen[key] = true
		tenants, agents, periods = append(tenants, i.Event.Tenant), append(agents, i.Event.Agent), append(periods, i.Period)
	}
	if len(tenants) == 0 {
		return nil, nil
	}
	rows, _ := tx.Query(ctx, recountSQL, tenants, agents, periods)
	totals, err := pgx.CollectRows(rows, pgx.RowToStructByPos[counterTotal])
	if err != nil {
		return nil, fmt.Errorf("set %d counters to the sum of their events: %w", len(tenants), err)
	}
	return totals, nil
}

// A counter cannot go below zero, also not while what it was lowered from is
// still to be restored.
const recountSQL = `
with wanted as (
    select *
    from unnest($1::uuid[], $2::text[], $3::timestamptz[]) as w (tenant_id, agent, period_start)
),
counted as (
    select e.tenant_id, e.agent, e.period_start, sum(e.quantity)::bigint as quantity, max(e.occurred_at) as last_event_at
    from usage_events e
    where e.tenant_id = any($1)
    group by e.tenant_id, e.agent, e.period_start
),
totals as (
    select
        w.tenant_id,
        w.agent,
        w.period_start,
        c.quantity + coalesce(r.quantity, 0) as total,
        c.last_event_at
    from wanted w
    join counted c using (tenant_id, agent, period_start)
    left join usage_removed r using (tenant_id, agent, period_start)
),
corrected as (
    update usage_counters u
    set count = greatest(0, t.total),
        last_event_at = greatest(u.last_event_at, t.last_event_at),
        updated_at = now()
    from totals t
    where u.tenant_id = t.tenant_id
      and u.agent = t.agent
      and u.period_start = t.period_start
),
made as (
    insert into usage_counters (tenant_id, agent, period_start, period_end, count, last_event_at)
    select t.tenant_id, t.agent, t.period_start, p.period_end, greatest(0, t.total), t.last_event_at
    from totals t
    join billing_periods p using (tenant_id, period_start)
    where not exists (
        select from usage_counters u
        where u.tenant_id = t.tenant_id
          and u.agent = t.agent
          and u.period_start = t.period_start
    )
)
select tenant_id, agent, period_start, total
from totals`

// learn remembers totals whose transaction is committed.
func (c *counterRebuild) learn(totals []counterTotal) {
	for _, t := range totals {
		key := keyOf(t.Tenant, t.Agent, t.Period)
		c.rebuilt[key] = t.Total >= 0
		if delete(c.negative, key); t.Total < 0 {
			c.negative[key] = t.Total
		}
	}
}

// shortfalls are the counters that could not be made right.
func (c *counterRebuild) shortfalls() []Shortfall {
	var found []Shortfall
	for key, sum := range c.negative {
		found = append(found, Shortfall{key.tenant, key.agent, time.UnixMicro(key.period).UTC(), sum})
	}
	return found
}
