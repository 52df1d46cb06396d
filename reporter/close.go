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

// ended is a period that waits to be closed.
type ended struct {
	Tenant uuid.UUID
	Start  time.Time
	End    time.Time
}

// The earliest open period of each tenant, once it has ended: periods close in
// order. Its terms are frozen by the rollover before.
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
// partition is complete beyond that, and returns how many. What waits for its
// partition is left for the next time. It asks nothing of Stripe.
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
		page, err := pgx.CollectRows(rows, pgx.RowToStructByName[ended])
		if err != nil {
			return closed, fmt.Errorf("list periods to close: %w", err)
		}
		if len(page) == 0 {
			return closed, nil
		}
		byPartition := map[int][]ended{}
		for _, e := range page {
			partition := odometer.PartitionOf(e.Tenant, partitions)
			byPartition[partition] = append(byPartition[partition], e)
		}
		for partition, periods := range byPartition {
			n, err := closeIn(ctx, pool, partition, periods, now, grace)
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

// closeIn closes periods of one partition's tenants, under its lock: no event
// is counted between the look at the counters and the close.
func closeIn(ctx context.Context, pool *pgxpool.Pool, partition int, periods []ended, now time.Time, grace time.Duration) (closed int, err error) {
	// Without the lock first: a partition that lags must not be held up by us.
	if due, err := complete(ctx, pool, partition, periods, grace); err != nil || len(due) == 0 {
		return 0, err
	}
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if err := billing.Lock(ctx, tx, periods[0].Tenant); err != nil {
			return err
		}
		due, err := complete(ctx, tx, partition, periods, grace)
		if err != nil {
			return err
		}
		closed, err = freezeCounts(ctx, tx, partition, due, now)
		return err
	})
	return closed, err
}

// complete are the periods beyond whose end and grace the partition is complete.
func complete(ctx context.Context, q querier, partition int, periods []ended, grace time.Duration) ([]ended, error) {
	var until *time.Time
	if err := q.QueryRow(ctx, completeSQL, partition).Scan(&until); err != nil {
		return nil, fmt.Errorf("look until when partition %d is complete: %w", partition, err)
	}
	var due []ended
	for _, p := range periods {
		if until != nil && !until.Before(p.End.Add(grace)) {
			due = append(due, p)
		}
	}
	return due, nil
}

// An agent that came into the catalogue after the period's end has no frozen
// terms: it was not included, at the price in force.
const freezeCountsSQL = `
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

const closedSQL = `
select count(*)
from billing_periods p
join unnest($1::uuid[], $2::timestamptz[]) as c (tenant_id, period_start) using (tenant_id, period_start)
where p.status = 'closed'`

// freezeCounts writes what the periods came to, and that nothing beyond the
// partition's position belongs to them.
func freezeCounts(ctx context.Context, tx pgx.Tx, partition int, periods []ended, now time.Time) (closed int, err error) {
	if len(periods) == 0 {
		return 0, nil
	}
	tenants := make([]uuid.UUID, len(periods))
	starts := make([]time.Time, len(periods))
	for i, p := range periods {
		tenants[i], starts[i] = p.Tenant, p.Start
	}
	if _, err := tx.Exec(ctx, freezeCountsSQL, tenants, starts, partition, now); err != nil {
		return 0, fmt.Errorf("close %d periods of partition %d: %w", len(periods), partition, err)
	}
	if err := tx.QueryRow(ctx, closedSQL, tenants, starts).Scan(&closed); err != nil {
		return 0, fmt.Errorf("count closed periods of partition %d: %w", partition, err)
	}
	return closed, nil
}
