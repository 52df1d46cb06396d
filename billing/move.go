package billing

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// moveEvents puts the events of a tenant whose boundaries have changed where
// they belong now, and their quantities with them: into the open period of
// their time, else the first later one (as a late event always went), else the
// last. Nothing that was counted is ever left without a period, and what a
// closed one holds stays there.
func moveEvents(ctx context.Context, tx pgx.Tx, tenant uuid.UUID) error {
	_, err := tx.Exec(ctx, moveEventsSQL, tenant)
	switch {
	case isViolation(err, "usage_counters_not_negative"):
		return fmt.Errorf("%w: a correction would leave its usage on the other side of the new boundary and bring a period below zero: choose a boundary that keeps them together",
			ErrRefused)
	case err != nil:
		return fmt.Errorf("move events to their periods: %w", err)
	}
	if _, err := tx.Exec(ctx, fitCountersSQL, tenant); err != nil {
		return fmt.Errorf("fit counters to their periods: %w", err)
	}
	return nil
}

const moveEventsSQL = `
with misplaced as (
    select e.event_id, e.agent, e.quantity, e.occurred_at, e.period_start as was, home.*
    from usage_events e
    cross join lateral (
        select p.period_start as now, p.period_end as now_end
        from billing_periods p
        where p.tenant_id = e.tenant_id
          and p.status = 'open'
        order by
            p.period_end > e.occurred_at desc,
            case when p.period_end > e.occurred_at then p.period_start end,
            p.period_start desc
        limit 1
    ) home
    where e.tenant_id = $1
      and home.now <> e.period_start
      and not exists (
          select from billing_periods p
          where p.tenant_id = e.tenant_id
            and p.period_start = e.period_start
            and p.status = 'closed'
      )
),
moved as (
    update usage_events e
    set period_start = m.now
    from misplaced m
    where e.tenant_id = $1
      and e.event_id = m.event_id
),
taken as (
    select agent, was, sum(quantity) as quantity
    from misplaced
    group by agent, was
),
given as (
    select agent, now, now_end, sum(quantity) as quantity, max(occurred_at) as last_event_at
    from misplaced
    group by agent, now, now_end
),
lowered as (
    update usage_counters c
    set count = c.count - t.quantity,
        last_event_at = (
            select max(e.occurred_at)
            from usage_events e
            where e.tenant_id = $1
              and e.agent = t.agent
              and e.period_start = t.was
              and e.event_id not in (select m.event_id from misplaced m)
        ),
        updated_at = now()
    from taken t
    where c.tenant_id = $1
      and c.agent = t.agent
      and c.period_start = t.was
      and not exists (select from given g where g.agent = t.agent and g.now = t.was)
),
raised as (
    update usage_counters c
    set count = c.count + g.quantity - coalesce(t.quantity, 0),
        last_event_at = greatest(c.last_event_at, g.last_event_at),
        updated_at = now()
    from given g
    left join taken t on t.agent = g.agent and t.was = g.now
    where c.tenant_id = $1
      and c.agent = g.agent
      and c.period_start = g.now
    returning c.agent, c.period_start
)
insert into usage_counters (tenant_id, agent, period_start, period_end, count, last_event_at)
select $1, g.agent, g.now, g.now_end, g.quantity, g.last_event_at
from given g
where not exists (select from raised r where r.agent = g.agent and r.period_start = g.now)`

// A counter's copy of its period's end follows the period; a counter whose
// period is gone has nothing left to count.
const fitCountersSQL = `
with gone as (
    delete from usage_counters c
    where c.tenant_id = $1
      and c.count = 0
      and not exists (
          select from billing_periods p
          where p.tenant_id = c.tenant_id
            and p.period_start = c.period_start
      )
)
update usage_counters c
set period_end = p.period_end,
    updated_at = now()
from billing_periods p
where c.tenant_id = $1
  and p.tenant_id = c.tenant_id
  and p.period_start = c.period_start
  and p.period_end <> c.period_end`
