package reporter

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// A closed period is settled when no invoice will hear of it any more: nothing
// is undecided in it, and either nothing was over and nothing was told, or its
// invoice is final and the totals of its chains make up the frozen overage
// (or what they lack has no invoice left).
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
          where i.tenant_id = p.tenant_id and i.period_start = p.period_start and i.fixed_at is not null
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
          select coalesce(sum(last.to_total), 0) as told
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
        and t.overage <> chain.told
        and not exists (
            select from overage_reports r
            where r.tenant_id = t.tenant_id
              and r.agent = t.agent
              and r.period_start = t.period_start
              and r.state = 'unbillable'
        )
  )`

// settle marks the tenants' periods that nothing is left to do for.
func settle(ctx context.Context, q querier, tenants []uuid.UUID, now time.Time) error {
	if _, err := q.Exec(ctx, settleSQL, tenants, now); err != nil {
		return fmt.Errorf("settle periods of %d tenants: %w", len(tenants), err)
	}
	return nil
}

// settleAll settles what has nothing to tell, where nothing is told: with the
// sink DryRun. A period with overage stays, so that the first pass of a real
// sink tells everything.
func (r *Reporter) settleAll(ctx context.Context, scope Scope) error {
	after := uuid.Nil
	for {
		rows, _ := r.Pool.Query(ctx, tenantsSQL, r.now(), after, scope.Tenant, pageSize)
		tenants, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		if err != nil {
			return fmt.Errorf("list tenants with unsettled periods: %w", err)
		}
		if len(tenants) == 0 {
			return nil
		}
		if err := settle(ctx, r.Pool, tenants, r.now()); err != nil {
			return err
		}
		after = tenants[len(tenants)-1]
	}
}
