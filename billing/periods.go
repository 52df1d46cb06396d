package billing

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"odometer"
)

// storedPeriod is a period as its row has it.
type storedPeriod struct {
	odometer.Period
	frozen bool // limits and prices are those of its end
}

// spans reports whether another period has the same bounds.
func (p *storedPeriod) spans(other odometer.Period) bool {
	return p.Start.Equal(other.Start) && p.End.Equal(other.End)
}

// tenantPeriods are all periods of a tenant, and the rule of the subscription by
// which they follow one another.
type tenantPeriods struct {
	periods  []storedPeriod // in order
	interval odometer.Interval
	anchor   time.Time
}

const loadPeriodRowsSQL = `
select
    p.period_start,
    p.period_end,
    coalesce(p.plan_id, ''),
    p.trial,
    p.status = 'closed',
    p.frozen_at is not null,
    s.period_interval,
    s.anchor
from billing_periods p
join subscriptions s using (tenant_id)
where p.tenant_id = $1
order by p.period_start`

func loadPeriodRows(ctx context.Context, tx pgx.Tx, tenant uuid.UUID) (tenantPeriods, error) {
	var l tenantPeriods
	var p storedPeriod
	var closed bool
	rows, _ := tx.Query(ctx, loadPeriodRowsSQL, tenant)
	_, err := pgx.ForEachRow(rows, []any{
		&p.Start, &p.End, &p.PlanID, &p.Trial, &closed, &p.frozen, &l.interval, &l.anchor,
	}, func() error {
		period := p
		if closed {
			period.ClosedAt = &odometer.Position{}
		}
		l.periods = append(l.periods, period)
		return nil
	})
	if err != nil {
		return tenantPeriods{}, fmt.Errorf("load periods: %w", err)
	}
	return l, nil
}

// periodChanges are the rows that a change of the subscription deletes (by
// start), updates and inserts.
type periodChanges struct {
	remove []time.Time
	update []storedPeriod
	insert []odometer.Period
	moved  bool // a boundary changed: events may belong to other periods now
}

// maxPeriods is how many periods one change may create: fourteen years of days.
// More is most likely a mistyped year.
const maxPeriods = 5000

// planPeriods returns the changes that give a tenant the subscription's periods
// from start up to and including the one that contains now. What lies before
// start stays, except that a running period ends there. A closed period may be
// given again with its own bounds, so that a late notification can still change
// what follows it.
func planPeriods(stored tenantPeriods, sub odometer.Subscription, start, end, now time.Time) (periodChanges, error) {
	wanted := sub.FirstPeriods(start, end)
	wanted = append(wanted, sub.Roll(wanted[len(wanted)-1].End, lastStart(stored, now))...)
	if len(wanted) > maxPeriods {
		return periodChanges{}, fmt.Errorf("%w: from %s to now there would be %d periods of a %s: give a later --period-start",
			ErrRefused, start.Format(time.RFC3339), len(wanted), sub.Interval)
	}
	var out periodChanges
	known := map[int64]storedPeriod{}
	for _, p := range stored.periods {
		switch {
		case p.ClosedAt != nil && slices.ContainsFunc(wanted, p.spans):
			wanted = slices.DeleteFunc(wanted, p.spans) // given unchanged
		case p.ClosedAt != nil && p.End.After(start):
			return periodChanges{}, fmt.Errorf("%w: %s overlaps the closed period [%s, %s), which never changes: begin at its end or later",
				ErrRefused, start.Format(time.RFC3339), p.Start.Format(time.RFC3339), p.End.Format(time.RFC3339))
		case p.Start.Before(start) && p.End.After(start):
			p.End = start
			out.update = append(out.update, p)
			out.moved = true
		case !p.Start.Before(start):
			known[p.Start.UnixMicro()] = p
			out.remove = append(out.remove, p.Start)
		}
	}
	if err := checkEnded(known, wanted, start); err != nil {
		return periodChanges{}, err
	}
	if len(wanted) == 0 && len(out.remove) > 0 {
		return periodChanges{}, fmt.Errorf("%w: after the closed period from %s nothing is to follow, but the one from %s has begun: let that one end instead",
			ErrRefused, start.Format(time.RFC3339), out.remove[0].Format(time.RFC3339))
	}
	out.fit(wanted, known, sub.Status, now)
	return out, nil
}

// checkEnded refuses to make an ended period part of a longer one: its plan,
// limits and prices are those of its end, and would be lost. To end it earlier
// is allowed; that is what a late notification of a change does.
func checkEnded(known map[int64]storedPeriod, wanted []odometer.Period, start time.Time) error {
	for _, old := range known {
		i := slices.IndexFunc(wanted, func(w odometer.Period) bool { return w.Start.Equal(old.Start) })
		if old.frozen && (i < 0 || wanted[i].End.After(old.End)) {
			return fmt.Errorf("%w: from %s on the period [%s, %s), which has ended, would become part of a longer one: begin at its end or later",
				ErrRefused, start.Format(time.RFC3339), old.Start.Format(time.RFC3339), old.End.Format(time.RFC3339))
		}
	}
	return nil
}

// lastStart is now, or the start of a period that was created already for an
// event ahead of now: without that period the event would be in the one before.
func lastStart(stored tenantPeriods, now time.Time) time.Time {
	until := now
	for _, p := range stored.periods {
		if p.Start.After(until) && !p.Start.After(now.Add(odometer.MaxAhead)) {
			until = p.Start
		}
	}
	return until
}

// fit separates the wanted periods into stored rows and new ones.
func (l *periodChanges) fit(wanted []odometer.Period, known map[int64]storedPeriod, status odometer.Status, now time.Time) {
	keep := map[int64]bool{}
	for _, w := range wanted {
		old, ok := known[w.Start.UnixMicro()]
		if !ok {
			l.insert = append(l.insert, w)
			l.moved = true
			continue
		}
		keep[w.Start.UnixMicro()] = true
		l.moved = l.moved || !old.End.Equal(w.End)
		l.update = append(l.update, updated(old, w, status, now))
	}
	removed := l.remove[:0]
	for _, start := range l.remove {
		if !keep[start.UnixMicro()] {
			removed = append(removed, start)
		}
	}
	l.remove = removed
	l.moved = l.moved || len(removed) > 0
}

// updated is the stored period with the wanted bounds, plan and trial, as far as
// they may change: an ended one keeps what it was frozen with, and a canceled
// trial stays free.
func updated(old storedPeriod, wanted odometer.Period, status odometer.Status, now time.Time) storedPeriod {
	if old.frozen && !wanted.End.After(now) {
		wanted.PlanID, wanted.Trial = old.PlanID, old.Trial
		return storedPeriod{Period: wanted, frozen: true}
	}
	if status == odometer.Canceled || status == odometer.Expired {
		wanted.Trial = wanted.Trial || old.Trial
	}
	return storedPeriod{Period: wanted}
}

func (l *periodChanges) write(ctx context.Context, tx pgx.Tx, tenant uuid.UUID) error {
	// In this order no row ever overlaps another: deleted rows make room, and the
	// others keep their start and end before the next one.
	if err := deletePeriods(ctx, tx, tenant, l.remove); err != nil {
		return err
	}
	if err := l.updatePeriods(ctx, tx, tenant); err != nil {
		return err
	}
	var rows periodRows
	rows.add(tenant, l.insert...)
	if err := insertPeriods(ctx, tx, rows); err != nil {
		return err
	}
	if !l.moved {
		return nil
	}
	return moveEvents(ctx, tx, tenant)
}

const deletePeriodsSQL = `
delete from billing_periods
where tenant_id = $1
  and period_start = any($2)
  and status = 'open'`

func deletePeriods(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, starts []time.Time) error {
	if _, err := tx.Exec(ctx, deletePeriodsSQL, tenant, starts); err != nil {
		return fmt.Errorf("delete %d periods: %w", len(starts), err)
	}
	return nil
}

// A period whose end is no longer past is no longer frozen: it has the running
// limits and prices again.
const updatePeriodSQL = `
with unfrozen as (
    delete from period_allowances
    where tenant_id = $1
      and period_start = $2
      and not $6
)
update billing_periods
set period_end = $3,
    plan_id = nullif($4, ''),
    trial = $5,
    frozen_at = case when $6 then frozen_at end
where tenant_id = $1
  and period_start = $2
  and status = 'open'`

func (l *periodChanges) updatePeriods(ctx context.Context, tx pgx.Tx, tenant uuid.UUID) error {
	for _, p := range l.update {
		if _, err := tx.Exec(ctx, updatePeriodSQL, tenant, p.Start, p.End, p.PlanID, p.Trial, p.frozen); err != nil {
			return fmt.Errorf("update period from %s: %w", p.Start.Format(time.RFC3339), err)
		}
	}
	return nil
}

// moveEvents moves a tenant's events, after its period boundaries have changed,
// to the period they belong to now, and their quantities with them: into the
// open period of their time, else the first later one (as late events), else the
// last. Nothing counted is ever left without a period, and events of a closed
// period stay there.
func moveEvents(ctx context.Context, tx pgx.Tx, tenant uuid.UUID) error {
	_, err := tx.Exec(ctx, moveEventsSQL, tenant)
	switch {
	case isViolation(err, "usage_counters_not_negative"):
		return fmt.Errorf("%w: a correction and its usage would be on different sides of the new boundary, and a period would be below zero: choose a boundary that keeps them together",
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
    select e.event_id, e.agent, e.quantity, e.occurred_at, e.period_start as old_start, target.*
    from usage_events e
    cross join lateral (
        select p.period_start as new_start, p.period_end as new_end
        from billing_periods p
        where p.tenant_id = e.tenant_id
          and p.status = 'open'
        order by
            p.period_end > e.occurred_at desc,
            case when p.period_end > e.occurred_at then p.period_start end,
            p.period_start desc
        limit 1
    ) target
    where e.tenant_id = $1
      and target.new_start <> e.period_start
      and not exists (
          select from billing_periods p
          where p.tenant_id = e.tenant_id
            and p.period_start = e.period_start
            and p.status = 'closed'
      )
),
moved as (
    update usage_events e
    set period_start = m.new_start
    from misplaced m
    where e.tenant_id = $1
      and e.event_id = m.event_id
),
leaving as (
    select agent, old_start, sum(quantity) as quantity
    from misplaced
    group by agent, old_start
),
arriving as (
    select agent, new_start, new_end, sum(quantity) as quantity, max(occurred_at) as last_event_at
    from misplaced
    group by agent, new_start, new_end
),
lowered as (
    update usage_counters c
    set count = c.count - t.quantity,
        last_event_at = (
            select max(e.occurred_at)
            from usage_events e
            where e.tenant_id = $1
              and e.agent = t.agent
              and e.period_start = t.old_start
              and e.event_id not in (select m.event_id from misplaced m)
        ),
        updated_at = now()
    from leaving t
    where c.tenant_id = $1
      and c.agent = t.agent
      and c.period_start = t.old_start
      and not exists (select from arriving g where g.agent = t.agent and g.new_start = t.old_start)
),
raised as (
    update usage_counters c
    set count = c.count + g.quantity - coalesce(t.quantity, 0),
        last_event_at = greatest(c.last_event_at, g.last_event_at),
        updated_at = now()
    from arriving g
    left join leaving t on t.agent = g.agent and t.old_start = g.new_start
    where c.tenant_id = $1
      and c.agent = g.agent
      and c.period_start = g.new_start
    returning c.agent, c.period_start
)
insert into usage_counters (tenant_id, agent, period_start, period_end, count, last_event_at)
select $1, g.agent, g.new_start, g.new_end, g.quantity, g.last_event_at
from arriving g
where not exists (select from raised r where r.agent = g.agent and r.period_start = g.new_start)`

// A counter repeats its period's end. A counter whose period was deleted has
// nothing left to count.
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
