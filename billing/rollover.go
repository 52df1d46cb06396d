package billing

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
)

const dueSQL = `
select distinct tenant_id
from billing_periods
where frozen_at is null
  and period_end <= $1
limit $2`

// Due lists tenants whose running period has ended at now, at most limit.
func Due(ctx context.Context, q querier, now time.Time, limit int) ([]uuid.UUID, error) {
	rows, _ := q.Query(ctx, dueSQL, now, limit)
	tenants, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("list periods that have ended: %w", err)
	}
	return tenants, nil
}

// RollOver creates the periods that follow by themselves until each tenant has
// one that contains the time until, freezes limits and prices of those that have
// ended at now, and ends trials that are over. Doing it twice changes nothing. until may lie ahead of now: an event may occur up to
// odometer.MaxAhead after it was stored, and its period must exist then. It
// is never before now: a frozen period without its successor would not be due
// again.
func RollOver(ctx context.Context, pool *pgxpool.Pool, tenants []uuid.UUID, now, until time.Time) error {
	if until.Before(now) {
		until = now
	}
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if err := Lock(ctx, tx, tenants...); err != nil {
			return err
		}
		return rollOverLocked(ctx, tx, tenants, now, until)
	})
}

// rollOverLocked is RollOver under the locks of the tenants' partitions.
func rollOverLocked(ctx context.Context, tx pgx.Tx, tenants []uuid.UUID, now, until time.Time) error {
	found, err := LoadTenants(ctx, tx, tenants, time.Time{})
	if err != nil {
		return err
	}
	var rows periodRows
	for id, t := range found {
		if len(t.Periods) > 0 {
			rows.add(id, t.Subscription.Roll(t.Periods[len(t.Periods)-1].End, until)...)
		}
	}
	if err := insertPeriods(ctx, tx, rows); err != nil {
		return err
	}
	return applyTime(ctx, tx, found, now)
}

// applyTime writes what has changed by time alone: the status after a trial, and
// the freeze of ended periods.
func applyTime(ctx context.Context, tx pgx.Tx, tenants map[uuid.UUID]*Tenant, now time.Time) error {
	ids := make([]uuid.UUID, 0, len(tenants))
	for id, t := range tenants {
		ids = append(ids, id)
		if status := t.Subscription.StatusAt(now); status != t.Subscription.Status {
			if err := setStatus(ctx, tx, id, status); err != nil {
				return err
			}
		}
	}
	return freeze(ctx, tx, ids, now)
}

const setStatusSQL = `
update subscriptions
set status = $2,
    updated_at = now()
where tenant_id = $1`

func setStatus(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, status odometer.Status) error {
	if _, err := tx.Exec(ctx, setStatusSQL, tenant, status); err != nil {
		return fmt.Errorf("set status of %s to %s: %w", tenant, status, err)
	}
	return nil
}

// A trial and a period without a plan have no limit, and so no overage; an
// agent that the plan does not include has limit 0.
const freezeSQL = `
with ended as (
    update billing_periods p
    set frozen_at = $2,
        stripe_customer = coalesce(p.stripe_customer, s.stripe_customer)
    from subscriptions s
    where p.tenant_id = any($1)
      and s.tenant_id = p.tenant_id
      and p.frozen_at is null
      and p.period_end <= $2
    returning p.tenant_id, p.period_start, p.plan_id, p.trial
)
insert into period_allowances (tenant_id, period_start, agent, "limit", unit_price)
select
    e.tenant_id,
    e.period_start,
    a.agent,
    case
        when e.trial or e.plan_id is null then null
        when l.agent is null then 0
        else l."limit"
    end,
    a.unit_price
from ended e
cross join agents a
left join allowances l on l.plan_id = e.plan_id and l.agent = a.agent`

func freeze(ctx context.Context, tx pgx.Tx, tenants []uuid.UUID, now time.Time) error {
	if _, err := tx.Exec(ctx, freezeSQL, tenants, now); err != nil {
		return fmt.Errorf("freeze ended periods of %d tenants: %w", len(tenants), err)
	}
	return nil
}

// periodRows are periods of any tenants as columns for unnest.
type periodRows struct {
	tenant     []uuid.UUID
	start, end []time.Time
	plan       []string
	trial      []bool
}

func (r *periodRows) add(tenant uuid.UUID, periods ...odometer.Period) {
	for _, p := range periods {
		r.tenant = append(r.tenant, tenant)
		r.start = append(r.start, p.Start)
		r.end = append(r.end, p.End)
		r.plan = append(r.plan, p.PlanID)
		r.trial = append(r.trial, p.Trial)
	}
}

const insertPeriodsSQL = `
insert into billing_periods (tenant_id, period_start, period_end, plan_id, trial)
select tenant_id, period_start, period_end, nullif(plan_id, ''), trial
from unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::text[], $5::boolean[])
    as p (tenant_id, period_start, period_end, plan_id, trial)`

func insertPeriods(ctx context.Context, tx pgx.Tx, r periodRows) error {
	if len(r.tenant) == 0 {
		return nil
	}
	if _, err := tx.Exec(ctx, insertPeriodsSQL, r.tenant, r.start, r.end, r.plan, r.trial); err != nil {
		return fmt.Errorf("insert %d periods: %w", len(r.tenant), err)
	}
	return nil
}
