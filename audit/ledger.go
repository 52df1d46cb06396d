package audit

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// agentPeriod is an agent's period beside what was reported of it.
type agentPeriod struct {
	counterKey
	Closed     bool
	Settled    bool
	Counter    int64
	Total      *int64 // the frozen count, nil when there is none
	Consistent bool   // the frozen overage follows from the frozen count and limit
	Overage    int64  // the frozen one, or by today's limit
	Reported   int64  // sum of the chains' last accepted totals
	Undecided  int64  // entries
	Unbillable int64  // entries
}

// The limit is the frozen one where there is one: a closed period's in its total,
// one that has ended's in period_allowances. What was reported is the sum of the
// last accepted total of each chain.
const agentPeriodsSQL = `
with owed as (
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
entries as (
    select
        tenant_id, agent, period_start, to_total, state,
        revision = max(revision) filter (where state in ('accepted', 'verified')) over (
            partition by tenant_id, agent, period_start, account, livemode, stripe_customer, meter
        ) as last
    from overage_reports
    where $1::uuid is null or tenant_id = $1
),
reported as (
    select
        tenant_id,
        agent,
        period_start,
        (sum(to_total) filter (where last))::bigint as total,
        count(*) filter (where state in ('planned', 'sending', 'unknown')) as undecided,
        count(*) filter (where state = 'unbillable') as unbillable
    from entries
    group by tenant_id, agent, period_start
)
select
    tenant_id,
    agent,
    period_start,
    coalesce(owed.closed, false),
    coalesce(owed.settled, false),
    coalesce(owed.counter, 0),
    owed.total,
    coalesce(owed.consistent, true),
    coalesce(owed.overage, 0),
    coalesce(reported.total, 0),
    coalesce(reported.undecided, 0),
    coalesce(reported.unbillable, 0)
from owed
full join reported using (tenant_id, agent, period_start)`

// compareLedger compares counters with what was reported, and the ledger with
// itself and with its mirror, in one snapshot.
func (a *auditor) compareLedger(ctx context.Context) error {
	a.step("counters and ledger")
	before, err := a.loadMirror(ctx)
	if err != nil {
		return err
	}
	var now ledger
	err = pgx.BeginTxFunc(ctx, a.options.Pool, readOnly, func(tx pgx.Tx) error {
		if err := a.comparePeriodTotals(ctx, tx); err != nil {
			return err
		}
		if err := a.compareChains(ctx, tx); err != nil {
			return err
		}
		now, err = loadLedger(ctx, tx)
		return err
	})
	if err != nil {
		return fmt.Errorf("compare counters and ledger: %w", err)
	}
	return a.compareMirror(ctx, before, now)
}

func (a *auditor) comparePeriodTotals(ctx context.Context, tx pgx.Tx) error {
	rows, _ := tx.Query(ctx, agentPeriodsSQL, a.scope.Tenant)
	var p agentPeriod
	_, err := pgx.ForEachRow(rows, []any{
		&p.Tenant, &p.Agent, &p.Period, &p.Closed, &p.Settled, &p.Counter, &p.Total, &p.Consistent,
		&p.Overage, &p.Reported, &p.Undecided, &p.Unbillable,
	}, func() error {
		a.comparePeriodTotal(&p)
		p.Total = nil
		return nil
	})
	return err
}

// comparePeriodTotal compares one agent's period. Until that is settled, more or
// less reported than owed is for the next pass, or the invoice, to correct.
func (a *auditor) comparePeriodTotal(p *agentPeriod) {
	d := p.difference(TotalDiffers)
	switch {
	case p.Closed && p.Total == nil && p.Counter != 0:
		d.Expected, d.Found = "the frozen total of a closed period", "none"
		d.Cause, d.Repair = "its row was deleted", byHand("no repair is defined: a closed period is not closed again; restore the row from a backup")
	case p.Closed && p.Total != nil && *p.Total != p.Counter:
		d.Expected, d.Found = fmt.Sprintf("%d, the frozen total", *p.Total), fmt.Sprintf("%d in the counter", p.Counter)
		d.Cause = "the counter or the total was changed after the close"
		d.Repair = command("reconcile", "--tenant", p.Tenant.String()).note(" (sets the counter where the events agree with the total)")
	case !p.Consistent:
		d.Expected, d.Found = "an overage that follows from count and limit", fmt.Sprint(p.Overage)
		d.Cause, d.Repair = "the frozen total was changed by hand", byHand("no repair is defined: a closed period does not change; restore the row from a backup")
	case p.Reported == p.Overage && p.Undecided == 0:
		a.report.addEqual(countersLedger, 1)
		return
	case p.Settled && p.Unbillable == 0:
		d.Kind, d.Expected, d.Found = ToldDiffers, fmt.Sprintf("%d, the overage of the settled period", p.Overage), fmt.Sprintf("%d reported", p.Reported)
		d.Cause = "rows of the ledger were deleted, doubled or changed, or the frozen total was"
		d.Repair = byHand("no repair is defined: the period is settled; restore the ledger from a backup, then: odometer jobs run verify")
	default:
		a.report.addUnsettled(countersLedger, 1, p.whyUnsettled())
		return
	}
	a.report.addDifference(countersLedger, d)
}

func (p *agentPeriod) whyUnsettled() string {
	switch {
	case p.Undecided > 0:
		return "reports are undecided: odometer report"
	case p.Unbillable > 0:
		return "overage that no invoice is left for"
	case p.Reported > p.Overage:
		return "more is reported than is owed now; the next pass takes it back: odometer report"
	default:
		return "overage that is not reported yet: odometer report"
	}
}

// StripeCheck is what the ledger and Stripe's own summary say about a
// customer's meter in a period, in units.
type StripeCheck struct {
	Tenant      uuid.UUID
	Agent       string
	Customer    string
	Meter       string
	PeriodStart time.Time
	Ledger      int64
	Stripe      int64
	State       string // equal, different or unsettled
	Reason      string // why it is unsettled
}

// compareStripe compares the ledger with Stripe.
func (a *auditor) compareStripe(ctx context.Context) error {
	if a.options.Stripe == nil {
		a.report.addNote("ledger and Stripe: unknown: no Stripe key: give --stripe-api-key to compare them")
		return nil
	}
	a.step("ledger and Stripe")
	if err := a.options.Stripe(ctx, a.scope.Tenant, a.compareMeter); err != nil {
		return fmt.Errorf("compare ledger and Stripe: %w", err)
	}
	return nil
}

func (a *auditor) compareMeter(c StripeCheck) {
	switch c.State {
	case "equal":
		a.report.addEqual(ledgerStripe, 1)
		return
	case "different":
	default:
		a.report.addUnsettled(ledgerStripe, 1, c.Reason)
		return
	}
	d := counterKey{c.Tenant, c.Agent, c.PeriodStart}.difference(StripeTotalDiffers)
	d.Where = fmt.Sprintf("customer %s, meter %s", c.Customer, c.Meter)
	d.Expected, d.Found = fmt.Sprintf("%d, as the ledger has it", c.Ledger), fmt.Sprintf("%d in Stripe's summary", c.Stripe)
	d.Cause = "something else reported to this meter, or a row of the ledger was lost"
	d.Repair = byHand("no repair is defined: nothing is sent again; the final invoice decides and what it has too much is carried into the next period. After a restored backup: odometer jobs run verify")
	if c.Stripe < c.Ledger {
		d.Cause = "Stripe dropped a report after it was accepted, or a row of the ledger was added by hand"
		d.Repair = byHand("no repair is defined: nothing is sent again; the final invoice decides and what it lacks is carried into the next period")
	}
	a.report.addDifference(ledgerStripe, d)
}
