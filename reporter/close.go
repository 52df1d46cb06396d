package reporter

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
	"odometer/billing"
)

// endedPeriod is an open period that has ended.
type endedPeriod struct {
	Tenant uuid.UUID
	Start  time.Time
	End    time.Time
}

// The earliest open period of each tenant, once it has ended: periods close in
// order. The rollover before has frozen its allowances and prices.
const endedSQL = `
select tenant_id as tenant, period_start as start, period_end as end
from (
    select distinct on (tenant_id) tenant_id, period_start, period_end
    from billing_periods
    where status = 'open'
      and frozen_at is not null
      and period_end <= $1
      and tenant_id > $2
    order by tenant_id, period_start
) earliest
order by tenant_id
limit $3`

// Close closes the periods that ended at least grace ago, where the tenant's
// partition is complete beyond that, and returns how many. A period whose
// partition lags is left for the next call. It makes no call to Stripe.
func Close(ctx context.Context, pool *pgxpool.Pool, now time.Time, grace time.Duration) (closed int, err error) {
	partitions, err := billing.Partitions(ctx, pool)
	if err != nil || partitions == 0 {
		return 0, err
	}
	for {
		round, err := closeRound(ctx, pool, partitions, now, grace)
		closed += round
		if err != nil || round == 0 {
			return closed, err
		}
	}
}

// closeRound closes at most one period of each tenant.
func closeRound(ctx context.Context, pool *pgxpool.Pool, partitions int, now time.Time, grace time.Duration) (closed int, err error) {
	const perPage = 2000
	after := uuid.Nil
	for {
		rows, _ := pool.Query(ctx, endedSQL, now.Add(-grace), after, perPage)
		page, err := pgx.CollectRows(rows, pgx.RowToStructByName[endedPeriod])
		if err != nil {
			return closed, fmt.Errorf("list periods to close: %w", err)
		}
		if len(page) == 0 {
			return closed, nil
		}
		byPartition := map[int][]endedPeriod{}
		for _, e := range page {
			partition := odometer.PartitionOf(e.Tenant, partitions)
			byPartition[partition] = append(byPartition[partition], e)
		}
		for partition, periods := range byPartition {
			n, err := closePartition(ctx, pool, partition, periods, now, grace)
			if err != nil {
				return closed, err
			}
			closed += n
		}
		after = page[len(page)-1].Tenant
	}
}

const completeSQL = `
select complete_until
from stream_positions
where partition = $1`

// closePartition closes periods of one partition's tenants, under its lock: no
// event is counted between reading the counters and closing.
func closePartition(ctx context.Context, pool *pgxpool.Pool, partition int, periods []endedPeriod, now time.Time, grace time.Duration) (closed int, err error) {
	// First without the lock, so that it never delays a partition that lags.
	if due, err := completePeriods(ctx, pool, partition, periods, grace); err != nil || len(due) == 0 {
		return 0, err
	}
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if err := billing.Lock(ctx, tx, periods[0].Tenant); err != nil {
			return err
		}
		due, err := completePeriods(ctx, tx, partition, periods, grace)
		if err != nil {
			return err
		}
		closed, err = writeTotals(ctx, tx, partition, due, now)
		return err
	})
	return closed, err
}

// completePeriods returns the periods beyond whose end and grace the partition
// is complete.
func completePeriods(ctx context.Context, q querier, partition int, periods []endedPeriod, grace time.Duration) ([]endedPeriod, error) {
	var until *time.Time
	if err := q.QueryRow(ctx, completeSQL, partition).Scan(&until); err != nil {
		return nil, fmt.Errorf("read until when partition %d is complete: %w", partition, err)
	}
	var due []endedPeriod
	for _, p := range periods {
		if until != nil && !until.Before(p.End.Add(grace)) {
			due = append(due, p)
		}
	}
	return due, nil
}

// An agent that was added to the catalogue after the period's end has no frozen
// allowance: it was not included, at the price in force.
const writeTotalsSQL = `
with closing as (
    update billing_periods p
    set status = 'closed',
        closed_epoch = s.stream_epoch,
        closed_seq = s.seq,
        closed_at = $4
    from unnest($1::uuid[], $2::timestamptz[]) as c (tenant_id, period_start)
    cross join stream_positions s
    where p.tenant_id = c.tenant_id
      and p.period_start = c.period_start
      and p.status = 'open'
      and p.frozen_at is not null
      and s.partition = $3
    returning p.tenant_id, p.period_start, p.plan_id is null or p.trial as free
)
insert into period_totals (tenant_id, agent, period_start, count, "limit", unit_price, overage)
select
    c.tenant_id,
    a.agent,
    c.period_start,
    coalesce(u.count, 0),
    allowed."limit",
    coalesce(f.unit_price, a.unit_price),
    greatest(0, coalesce(u.count, 0) - coalesce(allowed."limit", coalesce(u.count, 0)))
from closing c
cross join agents a
left join usage_counters u
    on u.tenant_id = c.tenant_id and u.period_start = c.period_start and u.agent = a.agent
left join period_allowances f
    on f.tenant_id = c.tenant_id and f.period_start = c.period_start and f.agent = a.agent
cross join lateral (
    select case when f.agent is null and not c.free then 0 else f."limit" end as "limit"
) allowed`

const countClosedSQL = `
select count(*)
from billing_periods p
join unnest($1::uuid[], $2::timestamptz[]) as c (tenant_id, period_start) using (tenant_id, period_start)
where p.status = 'closed'`

// writeTotals writes the totals of the periods, and the position after which no
// event belongs to them.
func writeTotals(ctx context.Context, tx pgx.Tx, partition int, periods []endedPeriod, now time.Time) (closed int, err error) {
	if len(periods) == 0 {
		return 0, nil
	}
	tenants := make([]uuid.UUID, len(periods))
	starts := make([]time.Time, len(periods))
	for i, p := range periods {
		tenants[i], starts[i] = p.Tenant, p.Start
	}
	if _, err := tx.Exec(ctx, writeTotalsSQL, tenants, starts, partition, now); err != nil {
		return 0, fmt.Errorf("close %d periods of partition %d: %w", len(periods), partition, err)
	}
	if err := tx.QueryRow(ctx, countClosedSQL, tenants, starts).Scan(&closed); err != nil {
		return 0, fmt.Errorf("count closed periods of partition %d: %w", partition, err)
	}
	return closed, nil
}

// A closed period is settled when no invoice will change for it: nothing is
// undecided in it, and either it had no overage and no report, or its invoice
// is final and the totals of its chains make up the frozen overage (or no
// invoice is left for the rest).
const settleSQL = `
update billing_periods p
set settled_at = $2
where p.tenant_id = any($1)
  and p.status = 'closed'
  and p.settled_at is null
  and not exists (
      select from overage_reports r
      where r.tenant_id = p.tenant_id
        and (r.period_start = p.period_start or r.billed_period_start = p.period_start)
        and r.state in ('planned', 'sending', 'unknown')
  )
  and (
      exists (
          select from period_invoices i
          where i.tenant_id = p.tenant_id and i.period_start = p.period_start and i.concluded_at is not null
      )
      or not exists (
          select from overage_reports r
          where r.tenant_id = p.tenant_id
            and (r.period_start = p.period_start or r.billed_period_start = p.period_start)
      )
  )
  and not exists (
      select from period_totals t
      cross join lateral (
          select coalesce(sum(last.to_total), 0) as reported
          from (
              select distinct on (r.account, r.livemode, r.stripe_customer, r.meter) r.to_total
              from overage_reports r
              where r.tenant_id = t.tenant_id
                and r.agent = t.agent
                and r.period_start = t.period_start
                and r.state in ('accepted', 'verified')
              order by r.account, r.livemode, r.stripe_customer, r.meter, r.revision desc
          ) last
      ) chain
      where t.tenant_id = p.tenant_id
        and t.period_start = p.period_start
        and t.overage <> chain.reported
        and not exists (
            select from overage_reports r
            where r.tenant_id = t.tenant_id
              and r.agent = t.agent
              and r.period_start = t.period_start
              and r.state = 'unbillable'
        )
  )`

// settlePeriods settles the tenants' periods for which nothing is left to do.
func settlePeriods(ctx context.Context, q querier, tenants []uuid.UUID, now time.Time) error {
	if _, err := q.Exec(ctx, settleSQL, tenants, now); err != nil {
		return fmt.Errorf("settle periods of %d tenants: %w", len(tenants), err)
	}
	return nil
}

// settleTenants settles the periods without overage where nothing is reported,
// with the sink DryRun. A period with overage stays, so that the first pass of
// a real sink reports everything.
func (r *Reporter) settleTenants(ctx context.Context, scope Scope) error {
	return r.eachTenantPage(ctx, scope.Tenant, func(tenants []uuid.UUID) error {
		return settlePeriods(ctx, r.Pool, tenants, r.now())
	})
}
