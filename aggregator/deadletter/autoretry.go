package deadletter

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
	"odometer/aggregator/apply"
)

// rulesSeenSQL names the rules by which a dead letter `d` is dead for the reason
// `s.reason`, as they are now: the catalogue, or the tenant's periods; null when
// there are none, and for reasons that no change of rules heals. It writes times
// as numbers, because how a time reads as text depends on the session.
const rulesSeenSQL = `case
        when s.reason in ('unknown_agent', 'unknown_action') then (
            select extract(epoch from c.applied_at)::text
            from catalogue c
        )
        when s.reason = 'no_billing_period' then (
            select md5(string_agg(extract(epoch from p.period_start) || '-' || extract(epoch from p.period_end), ',' order by p.period_start))
            from billing_periods p
            where p.tenant_id = d.tenant_id
        )
    end`

// A dead letter is retried when the rules it has seen are not those of today.
// Most need not be: their agent is still not there, their tenant still has no
// periods. All of it is read from one index, so a query costs little beside many
// dead letters whose cause persists.
const changedSQL = `
with catalogue_now as materialized (
    select extract(epoch from applied_at)::text as stamp
    from catalogue
),
waiting as materialized (
    select distinct tenant_id
    from dead_letters
    where state = 'open'
      and reason = 'no_billing_period'
),
periods_now as materialized (
    select
        p.tenant_id,
        md5(string_agg(extract(epoch from p.period_start) || '-' || extract(epoch from p.period_end), ',' order by p.period_start)) as stamp
    from waiting
    join billing_periods p using (tenant_id)
    group by p.tenant_id
),
changed as materialized (
    select l.stream_epoch, l.stream_seq
    from dead_letters l
    where l.state = 'open'
      and l.reason in ('unknown_agent', 'unknown_action')
      and l.rules_seen is distinct from (select stamp from catalogue_now)
      and exists (select from agents a where a.agent = l.agent)
    union all
    select l.stream_epoch, l.stream_seq
    from dead_letters l
    join periods_now p using (tenant_id)
    where l.state = 'open'
      and l.reason = 'no_billing_period'
      and l.rules_seen is distinct from p.stamp
)
select ` + apply.DeadLetterColumns + `
from changed
join dead_letters d using (stream_epoch, stream_seq)
where (d.stream_epoch, d.stream_seq) > ($1, $2)
order by d.stream_epoch, d.stream_seq
limit $3`

// AutoRetry retries the open dead letters no_billing_period, unknown_agent and
// unknown_action when the rules that made them dead have changed, and returns how
// many count now. Each is classified once by the same rules. It is meant to be
// called again and again, and may be called by several at once.
func AutoRetry(ctx context.Context, pool *pgxpool.Pool) (retried int, err error) {
	count := func(o Outcome) {
		if o.State == "retried" && !o.Before {
			retried++
		}
	}
	err = retryPages(ctx, pool, "odometer", count, func(after odometer.Position) (pgx.Rows, error) {
		return pool.Query(ctx, changedSQL, after.Epoch, after.Seq, pageSize)
	})
	return retried, err
}
