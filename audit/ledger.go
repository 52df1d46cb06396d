package audit

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// owed is an agent's period beside what was told of it.
type owed struct {
	Tenant     uuid.UUID
	Agent      string
	Period     time.Time
	Exists     bool   // the period
	Closed     bool   //
	Settled    bool   //
	Counter    int64  //
	Total      *int64 // the frozen count, nil when there is none
	Consistent bool   // the frozen overage follows from the frozen count and limit
	Overage    int64  // frozen, or of the present terms
	Told       int64  // sum of the last totals that stand
	Undecided  int64  // links
	Unbillable int64
}

// The allowance is the frozen one where there is one: of a closed period, in
// its total; of one that has ended, in its terms. What was told is the sum of
// the last total that stands of each chain.
const owedSQL = `
with wanted as (
    select
        p.tenant_id,
        k.agent,
        p.period_start,
        p.status = 'closed' as closed,
        p.settled_at is not null as settled,
        coalesce(u.count, 0) as counter,
        t.count as total,
        t.agent is null or t.overage = greatest(0, t.count - coalesce(t."limit", t.count)) as consistent,
        coalesce(t.overage, greatest(0, coalesce(u.count, 0) - case
            when p.trial or p.plan_id is null then coalesce(u.count, 0)
            when p.frozen_at is not null then case when f.agent is null then 0 else coalesce(f."limit", u.count, 0) end
            else case when l.agent is null then 0 else coalesce(l."limit", u.count, 0) end
        end)) as overage
    from billing_periods p
    cross join (select agent from agents union select agent from usage_counters) k
    left join usage_counters u on u.tenant_id = p.tenant_id and u.period_start = p.period_start and u.agent = k.agent
    left join period_totals t on t.tenant_id = p.tenant_id and t.period_start = p.period_start and t.agent = k.agent
    left join period_allowances f on f.tenant_id = p.tenant_id and f.period_start = p.period_start and f.agent = k.agent
    left join allowances l on l.plan_id = p.plan_id and l.agent = k.agent
    where ($1::uuid is null or p.tenant_id = $1)
      and (u.tenant_id is not null or t.tenant_id is not null)
),
last as (
    select distinct on (tenant_id, agent, period_start, account, livemode, stripe_customer, meter)
        tenant_id, agent, period_start, to_total
    from overage_reports
    where state in ('accepted', 'verified')
      and ($1::uuid is null or tenant_id = $1)
    order by tenant_id, agent, period_start, account, livemode, stripe_customer, meter, revision desc
),
told as (
    select tenant_id, agent, period_start, sum(total)::bigint as total, sum(undecided) as undecided, sum(unbillable) as unbillable
    from (
        select tenant_id, agent, period_start, to_total as total, 0 as undecided, 0 as unbillable
        from last
        union all
        select tenant_id, agent, period_start, 0,
            (state in ('planned', 'sending', 'unknown'))::integer,
            (state = 'unbillable')::integer
        from overage_reports
        where $1::uuid is null or tenant_id = $1
    ) links
    group by tenant_id, agent, period_start
)
select
    coalesce(w.tenant_id, o.tenant_id),
    coalesce(w.agent, o.agent),
    coalesce(w.period_start, o.period_start),
    exists (
        select from billing_periods p
        where p.tenant_id = coalesce(w.tenant_id, o.tenant_id)
          and p.period_start = coalesce(w.period_start, o.period_start)
    ),
    coalesce(w.closed, false),
    coalesce(w.settled, false),
    coalesce(w.counter, 0),
    w.total,
    coalesce(w.consistent, true),
    coalesce(w.overage, 0),
    coalesce(o.total, 0),
    coalesce(o.undecided, 0),
    coalesce(o.unbillable, 0)
from wanted w
full join told o on o.tenant_id = w.tenant_id and o.agent = w.agent and o.period_start = w.period_start`

// compareLedger compares counters with what was told, and the ledger with
// itself and with its mirror, in one snapshot.
func (a *auditor) compareLedger(ctx context.Context) error {
	a.step("counters and ledger")
	before, err := a.loadMirror(ctx)
	if err != nil {
		return err
	}
	var has ledger
	err = pgx.BeginTxFunc(ctx, a.Pool, snapshot, func(tx pgx.Tx) error {
		if err := a.compareTotals(ctx, tx); err != nil {
			return err
		}
		if err := a.compareLinks(ctx, tx); err != nil {
			return err
		}
		has, err = loadLedger(ctx, tx)
		return err
	})
	if err != nil {
		return fmt.Errorf("compare counters and ledger: %w", err)
	}
	return a.compareMirror(ctx, before, has)
}

func (a *auditor) compareTotals(ctx context.Context, tx pgx.Tx) error {
	rows, _ := tx.Query(ctx, owedSQL, a.Tenant)
	var o owed
	_, err := pgx.ForEachRow(rows, []any{
		&o.Tenant, &o.Agent, &o.Period, &o.Exists, &o.Closed, &o.Settled, &o.Counter, &o.Total, &o.Consistent,
		&o.Overage, &o.Told, &o.Undecided, &o.Unbillable,
	}, func() error {
		a.compareOwed(&o)
		o.Total = nil
		return nil
	})
	return err
}

// compareOwed judges one agent's period. As long as it is not settled, less or
// more told than owed is what the next pass, or the invoice, will settle.
func (a *auditor) compareOwed(o *owed) {
	tenant, period := o.Tenant, o.Period.UTC()
	d := Difference{Tenant: &tenant, Agent: o.Agent, Period: &period}
	switch {
	case o.Closed && o.Total == nil && o.Counter != 0:
		d.Kind, d.Expected, d.Found = TotalDiffers, "the frozen total of a closed period", "none"
		d.Cause, d.Repair = "its row was deleted", byHand("no repair is defined: a closed period is not closed again; restore the row from a backup")
	case o.Closed && o.Total != nil && *o.Total != o.Counter:
		d.Kind, d.Expected, d.Found = TotalDiffers, fmt.Sprintf("%d, the frozen total", *o.Total), fmt.Sprintf("%d in the counter", o.Counter)
		d.Cause = "the counter or the total was changed after the close"
		d.Repair = command("reconcile", "--tenant", tenant.String()).note(" (sets the counter where the events agree with the total)")
	case !o.Consistent:
		d.Kind, d.Expected, d.Found = TotalDiffers, "an overage that follows from count and limit", fmt.Sprint(o.Overage)
		d.Cause, d.Repair = "the frozen total was changed by hand", byHand("no repair is defined: a closed period does not change; restore the row from a backup")
	case o.Told == o.Overage && o.Undecided == 0:
		a.report.equal(countersLedger, 1)
		return
	case o.Settled && o.Unbillable == 0:
		d.Kind, d.Expected, d.Found = ToldDiffers, fmt.Sprintf("%d, the overage of the settled period", o.Overage), fmt.Sprintf("%d told", o.Told)
		d.Cause, d.Repair = "rows of the ledger were deleted, doubled or changed, or the frozen total was", byHand("no repair is defined: the period is settled; restore the ledger from a backup, then: odometer jobs run verify")
	default:
		a.report.unsettled(countersLedger, 1, unsettledWhy(o))
		return
	}
	a.report.differs(countersLedger, d)
}

func unsettledWhy(o *owed) string {
	switch {
	case o.Undecided > 0:
		return "reports are undecided: odometer report"
	case o.Unbillable > 0:
		return "overage that no invoice is left for"
	case o.Told > o.Overage:
		return "more is told than is owed now; the next pass takes it back: odometer report"
	default:
		return "overage that is not told yet: odometer report"
	}
}
