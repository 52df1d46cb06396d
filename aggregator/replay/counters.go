package replay

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"odometer/aggregator/apply"
)

// counterRebuild sets the counters of restored events. A counter that this
// replay has set once is the sum of its events from then on, because everybody
// adds to both; so the second time its restored events are only added.
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

// counterColumns are counters, and what is added to them, for unnest.
type counterColumns struct {
	tenant []uuid.UUID
	agent  []string
	period []time.Time
	added  []int64
	last   []time.Time
}

// set brings the counters of the restored events into order and returns the
// totals of those that it has summed.
func (c *counterRebuild) set(ctx context.Context, tx pgx.Tx, inserted []*apply.Item) ([]counterTotal, error) {
	recount, raise := c.columns(inserted)
	if err := raiseCounters(ctx, tx, raise); err != nil {
		return nil, err
	}
	if len(recount.tenant) == 0 {
		return nil, nil
	}
	rows, _ := tx.Query(ctx, recountSQL, recount.tenant, recount.agent, recount.period)
	totals, err := pgx.CollectRows(rows, pgx.RowToStructByPos[counterTotal])
	if err != nil {
		return nil, fmt.Errorf("set %d counters to the sum of their events: %w", len(recount.tenant), err)
	}
	return totals, nil
}

// columns tells the counters that must be summed from those that may be added
// to. A counter that is lowered is summed: what it is lowered from may be
// restored only later.
func (c *counterRebuild) columns(inserted []*apply.Item) (recount, raise counterColumns) {
	type change struct {
		first *apply.Item
		added int64
		last  time.Time
		less  bool
	}
	changes := map[counterKey]*change{}
	for _, i := range inserted {
		e := &i.Event
		key := keyOf(e.Tenant, e.Agent, i.Period)
		if changes[key] == nil {
			changes[key] = &change{first: i}
		}
		ch := changes[key]
		ch.added += e.Quantity
		ch.less = ch.less || e.Quantity < 0
		if e.OccurredAt.After(ch.last) {
			ch.last = e.OccurredAt
		}
	}
	for key, ch := range changes {
		to := &recount
		if c.rebuilt[key] && !ch.less {
			to = &raise
		}
		to.tenant = append(to.tenant, ch.first.Event.Tenant)
		to.agent = append(to.agent, ch.first.Event.Agent)
		to.period = append(to.period, ch.first.Period)
		to.added = append(to.added, ch.added)
		to.last = append(to.last, ch.last)
	}
	return recount, raise
}

const raiseSQL = `
update usage_counters c
set count = c.count + a.quantity,
    last_event_at = greatest(c.last_event_at, a.last_event_at),
    updated_at = now()
from unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::bigint[], $5::timestamptz[])
    as a (tenant_id, agent, period_start, quantity, last_event_at)
where c.tenant_id = a.tenant_id
  and c.agent = a.agent
  and c.period_start = a.period_start`

func raiseCounters(ctx context.Context, tx pgx.Tx, c counterColumns) error {
	if len(c.tenant) == 0 {
		return nil
	}
	tag, err := tx.Exec(ctx, raiseSQL, c.tenant, c.agent, c.period, c.added, c.last)
	if err == nil && tag.RowsAffected() != int64(len(c.tenant)) {
		err = fmt.Errorf("%d of them are there: somebody removed the others meanwhile, run this again", tag.RowsAffected())
	}
	if err != nil {
		return fmt.Errorf("raise %d counters: %w", len(c.tenant), err)
	}
	return nil
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
