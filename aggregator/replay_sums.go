package aggregator

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// sums sets the counters of restored events. A counter that this replay has
// set once is the sum of its events from then on, because everybody adds to
// both; so the second time its restored events are only added.
type sums struct {
	known    map[counterKey]bool
	negative map[counterKey]int64 // counters whose events sum to less than zero
}

// counterSum is a counter's true value.
type counterSum struct {
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

// set brings the counters of the counted items into order and tells the sums
// that it took.
func (s *sums) set(ctx context.Context, tx pgx.Tx, counted []*item, events []placed) ([]counterSum, error) {
	recount, raise := s.columns(counted, events)
	if err := raiseCounters(ctx, tx, raise); err != nil {
		return nil, err
	}
	if len(recount.tenant) == 0 {
		return nil, nil
	}
	rows, _ := tx.Query(ctx, recountSQL, recount.tenant, recount.agent, recount.period)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[counterSum])
	if err != nil {
		return nil, fmt.Errorf("set %d counters to the sum of their events: %w", len(recount.tenant), err)
	}
	return found, nil
}

// columns tells the counters that must be summed from those that may be added
// to. What takes away is summed: it may have come before what it takes from.
func (s *sums) columns(counted []*item, events []placed) (recount, raise counterColumns) {
	is := make(map[*item]bool, len(counted))
	for _, i := range counted {
		is[i] = true
	}
	type change struct {
		placed
		added int64
		last  time.Time
		less  bool
	}
	changes := map[counterKey]*change{}
	for _, p := range events {
		if !is[p.item] {
			continue
		}
		e := &p.item.event
		c := changes[keyOf(e.Tenant, e.Agent, p.period)]
		if c == nil {
			c = &change{placed: p}
			changes[keyOf(e.Tenant, e.Agent, p.period)] = c
		}
		c.added += e.Quantity
		c.less = c.less || e.Quantity < 0
		if e.OccurredAt.After(c.last) {
			c.last = e.OccurredAt
		}
	}
	for key, c := range changes {
		to := &recount
		if s.known[key] && !c.less {
			to = &raise
		}
		to.tenant = append(to.tenant, c.event.Tenant)
		to.agent = append(to.agent, c.event.Agent)
		to.period = append(to.period, c.period)
		to.added = append(to.added, c.added)
		to.last = append(to.last, c.last)
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

// learn remembers sums whose transaction is committed.
func (s *sums) learn(found []counterSum) {
	for _, c := range found {
		key := keyOf(c.Tenant, c.Agent, c.Period)
		s.known[key] = c.Total >= 0
		if delete(s.negative, key); c.Total < 0 {
			s.negative[key] = c.Total
		}
	}
}

// shortfalls are the counters that could not be made right.
func (s *sums) shortfalls() []Shortfall {
	var found []Shortfall
	for key, sum := range s.negative {
		found = append(found, Shortfall{key.tenant, key.agent, time.UnixMicro(key.period).UTC(), sum})
	}
	return found
}
