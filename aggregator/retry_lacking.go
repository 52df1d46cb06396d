package aggregator

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
)

// judgedBySQL names what a letter `d` with the reason `s.reason` lacks, as it
// is now: the catalogue, or the tenant's periods; null for what is not there at
// all and for reasons that no change of terms heals. Numbers, because how a
// time reads depends on the session.
const judgedBySQL = `case
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

// What a letter lacked may have come when the terms it names are not those of
// today. Most have none to compare with that would help: an agent that is still
// not there, a tenant without periods. All of it is read from one index, so a
// look costs little beside many letters whose cause persists.
const lackingSQL = `
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
lacking as materialized (
    select l.stream_epoch, l.stream_seq
    from dead_letters l
    where l.state = 'open'
      and l.reason in ('unknown_agent', 'unknown_action')
      and l.judged_by is distinct from (select stamp from catalogue_now)
      and exists (select from agents a where a.agent = l.agent)
    union all
    select l.stream_epoch, l.stream_seq
    from dead_letters l
    join periods_now p using (tenant_id)
    where l.state = 'open'
      and l.reason = 'no_billing_period'
      and l.judged_by is distinct from p.stamp
)
select ` + letterColumns + `
from lacking
join dead_letters d using (stream_epoch, stream_seq)
where (d.stream_epoch, d.stream_seq) > ($1, $2)
order by d.stream_epoch, d.stream_seq
limit $3`

// RetryLacking retries the open dead letters no_billing_period, unknown_agent
// and unknown_action when the terms they lacked something of have changed, and
// tells how many count now. Each is judged once by the same terms. It is meant
// to be called again and again, and may be called by several at once.
func RetryLacking(ctx context.Context, pool *pgxpool.Pool) (retried int, err error) {
	count := func(o Outcome) {
		if o.State == "retried" && !o.Before {
			retried++
		}
	}
	err = retryPages(ctx, pool, "odometer", count, func(after odometer.Position) (pgx.Rows, error) {
		return pool.Query(ctx, lackingSQL, after.Epoch, after.Seq, lettersAtOnce)
	})
	return retried, err
}
