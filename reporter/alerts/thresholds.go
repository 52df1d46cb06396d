package alerts

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"odometer"
)

// Every counter of every period that can still change is held against its
// limit: the plan's while the period runs, the frozen one once it has ended. A
// null limit is none: a trial's, an unlimited allowance's, that of a tenant
// without a plan. What a plan does not include has limit 0, of which the first
// unit is all: only the last threshold is said.
//
// The arithmetic is numeric: a limit may be as large as a bigint.
const thresholdsSQL = `
with held as (
    select p.tenant_id, c.agent, p.period_start, c.count,
        case when l.agent is null then 0 else l."limit" end as "limit"
    from billing_periods p
    join subscriptions s on s.tenant_id = p.tenant_id
    join usage_counters c on c.tenant_id = p.tenant_id and c.period_start = p.period_start
    join agents a on a.agent = c.agent
    left join allowances l on l.plan_id = p.plan_id and l.agent = c.agent
    where p.frozen_at is null
      and p.period_start <= $1
      and p.plan_id is not null
      and not p.trial
      and not (s.status = 'trial' and (s.trial_ends_at is null or s.trial_ends_at > $1))
    union all
    select p.tenant_id, c.agent, p.period_start, c.count, f."limit"
    from billing_periods p
    join usage_counters c on c.tenant_id = p.tenant_id and c.period_start = p.period_start
    join period_allowances f
        on f.tenant_id = p.tenant_id and f.period_start = p.period_start and f.agent = c.agent
    where p.frozen_at is not null
      and p.status = 'open'
      and not p.trial
)
insert into usage_alerts (tenant_id, agent, period_start, threshold, "limit", level, count, raised_at)
select h.tenant_id, h.agent, h.period_start, t.threshold, h."limit", t.level, h.count, $1
from held h
join unnest($2::integer[], $3::text[]) as t (threshold, level)
    on h.count::numeric * 100 >= h."limit"::numeric * t.threshold
where h.count > 0
  and (h."limit" > 0 or t.threshold = 100)
on conflict do nothing
returning tenant_id, agent, threshold, "limit", count`

// thresholds records the customers' alerts and logs the limits that are
// exceeded.
func (a *Alerts) thresholds(ctx context.Context, now time.Time, looked *Looked) error {
	rows, _ := a.Pool.Query(ctx, thresholdsSQL, now,
		[]int{odometer.WarningPercent, odometer.ErrorPercent},
		[]string{string(odometer.LevelWarning), string(odometer.LevelError)})
	var tenant uuid.UUID
	var agent string
	var threshold int
	var limit, count int64
	_, err := pgx.ForEachRow(rows, []any{&tenant, &agent, &threshold, &limit, &count}, func() error {
		looked.Alerts++
		if over := odometer.Overage(count, &limit); threshold == odometer.ErrorPercent && over > 0 {
			looked.Exceeded++
			a.Log.Warn("a limit is exceeded", "tenant", tenant, "agent", agent, "overage", over, "limit", limit)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look for counters at a threshold: %w", err)
	}
	return nil
}
