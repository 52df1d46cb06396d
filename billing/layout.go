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

// laidPeriod is a stored period with what its rows need to be changed.
type laidPeriod struct {
	odometer.Period
	frozen bool
}

// spans reports whether another period has the same bounds.
func (p *laidPeriod) spans(other odometer.Period) bool {
	return p.Start.Equal(other.Start) && p.End.Equal(other.End)
}

// laid is how a tenant's time is divided now.
type laid struct {
	periods  []laidPeriod // in order
	interval odometer.Interval
	anchor   time.Time
}

const loadLaidSQL = `
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

func loadLaid(ctx context.Context, tx pgx.Tx, tenant uuid.UUID) (laid, error) {
	var l laid
	var p laidPeriod
	var closed bool
	rows, _ := tx.Query(ctx, loadLaidSQL, tenant)
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
		return laid{}, fmt.Errorf("load periods: %w", err)
	}
	return l, nil
}

// layout is how a change divides a tenant's time anew: by start, which rows
// go, which change and which come.
type layout struct {
	drop   []time.Time
	change []laidPeriod
	insert []odometer.Period
	moved  bool // a boundary came, went or moved: events may belong elsewhere
}

// maxPeriods bounds what one change may lay: fourteen years of days. More is a
// mistyped year rather than a wish.
const maxPeriods = 5000

// relay divides a tenant's time from start on as the subscription says, up to
// and including the period that holds now. What lies before start stays,
// except that a running period ends there; a closed period may be said again
// with its own bounds, so that a late word can still change what follows it.
func relay(stored laid, sub odometer.Subscription, start, end, now time.Time) (layout, error) {
	wanted := sub.FirstPeriods(start, end)
	wanted = append(wanted, sub.Roll(wanted[len(wanted)-1].End, reach(stored, now))...)
	if len(wanted) > maxPeriods {
		return layout{}, fmt.Errorf("%w: from %s to now there would be %d periods of a %s: give a later --period-start",
			ErrRefused, start.Format(time.RFC3339), len(wanted), sub.Interval)
	}
	var out layout
	known := map[int64]laidPeriod{}
	for _, p := range stored.periods {
		switch {
		case p.ClosedAt != nil && slices.ContainsFunc(wanted, p.spans):
			wanted = slices.DeleteFunc(wanted, p.spans) // said as it stands, it stays as it is
		case p.ClosedAt != nil && p.End.After(start):
			return layout{}, fmt.Errorf("%w: %s overlaps the closed period [%s, %s), which never changes: begin at its end or later",
				ErrRefused, start.Format(time.RFC3339), p.Start.Format(time.RFC3339), p.End.Format(time.RFC3339))
		case p.Start.Before(start) && p.End.After(start):
			p.End = start
			out.change = append(out.change, p)
			out.moved = true
		case !p.Start.Before(start):
			known[p.Start.UnixMicro()] = p
			out.drop = append(out.drop, p.Start)
		}
	}
	if err := keepsEnded(known, wanted, start); err != nil {
		return layout{}, err
	}
	if len(wanted) == 0 && len(out.drop) > 0 {
		return layout{}, fmt.Errorf("%w: after the closed period from %s nothing is to follow, but the one from %s has begun: let that one end instead",
			ErrRefused, start.Format(time.RFC3339), out.drop[0].Format(time.RFC3339))
	}
	out.fit(wanted, known, sub.Status, now)
	return out, nil
}

// keepsEnded refuses to take a period that has ended into a longer one: its
// plan, limits and prices are those of its end, and would be lost. To end it
// earlier is allowed; that is what a late word of a change comes to.
func keepsEnded(known map[int64]laidPeriod, wanted []odometer.Period, start time.Time) error {
	for _, old := range known {
		i := slices.IndexFunc(wanted, func(w odometer.Period) bool { return w.Start.Equal(old.Start) })
		if old.frozen && (i < 0 || wanted[i].End.After(old.End)) {
			return fmt.Errorf("%w: from %s on the period [%s, %s), which has ended, would become part of a longer one: begin at its end or later",
				ErrRefused, start.Format(time.RFC3339), old.Start.Format(time.RFC3339), old.End.Format(time.RFC3339))
		}
	}
	return nil
}

// reach is now, or the start of a period that an event ahead of its time has
// had laid already: dropped, it would leave the event in the period before.
func reach(stored laid, now time.Time) time.Time {
	until := now
	for _, p := range stored.periods {
		if p.Start.After(until) && !p.Start.After(now.Add(odometer.MaxAhead)) {
			until = p.Start
		}
	}
	return until
}

// fit sorts the wanted periods into rows that are there already and new ones.
func (l *layout) fit(wanted []odometer.Period, known map[int64]laidPeriod, status odometer.Status, now time.Time) {
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
		l.change = append(l.change, restate(old, w, status, now))
	}
	dropped := l.drop[:0]
	for _, start := range l.drop {
		if !keep[start.UnixMicro()] {
			dropped = append(dropped, start)
		}
	}
	l.drop = dropped
	l.moved = l.moved || len(dropped) > 0
}

// restate is the stored period with the wanted bounds and terms, as far as
// they may change: one that has ended keeps what it was frozen with, and a
// trial that was canceled stays free.
func restate(old laidPeriod, wanted odometer.Period, status odometer.Status, now time.Time) laidPeriod {
	if old.frozen && !wanted.End.After(now) {
		wanted.PlanID, wanted.Trial = old.PlanID, old.Trial
		return laidPeriod{Period: wanted, frozen: true}
	}
	if status == odometer.Canceled || status == odometer.Expired {
		wanted.Trial = wanted.Trial || old.Trial
	}
	return laidPeriod{Period: wanted}
}

func (l *layout) write(ctx context.Context, tx pgx.Tx, tenant uuid.UUID) error {
	// In this order no row ever overlaps another: what goes makes room, and what
	// stays keeps its start and ends before the next one that stays.
	if err := dropPeriods(ctx, tx, tenant, l.drop); err != nil {
		return err
	}
	if err := l.changePeriods(ctx, tx, tenant); err != nil {
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

const dropPeriodsSQL = `
delete from billing_periods
where tenant_id = $1
  and period_start = any($2)
  and status = 'open'`

func dropPeriods(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, starts []time.Time) error {
	if _, err := tx.Exec(ctx, dropPeriodsSQL, tenant, starts); err != nil {
		return fmt.Errorf("drop %d periods: %w", len(starts), err)
	}
	return nil
}

// A period whose end is no longer past thaws: its terms are the running ones again.
const changePeriodSQL = `
with thawed as (
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

func (l *layout) changePeriods(ctx context.Context, tx pgx.Tx, tenant uuid.UUID) error {
	for _, p := range l.change {
		if _, err := tx.Exec(ctx, changePeriodSQL, tenant, p.Start, p.End, p.PlanID, p.Trial, p.frozen); err != nil {
			return fmt.Errorf("change period from %s: %w", p.Start.Format(time.RFC3339), err)
		}
	}
	return nil
}
