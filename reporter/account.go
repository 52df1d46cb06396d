package reporter

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/shopspring/decimal"

	"odometer"
)

// tenantAccount is what a tenant owes and what was reported, in all periods
// that are not settled.
type tenantAccount struct {
	tenant       uuid.UUID
	customer     string // "" without a Stripe customer
	subscription string
	status       odometer.Status
	periods      []*period      // unsettled, and started; in order
	entries      []*LedgerEntry // of these periods, or billed in them; by period, agent, revision
}

// period is a billing period with the overage that arose in it.
type period struct {
	start, end time.Time
	customer   string // whom it is billed to, once it has ended; "" for today's
	trial      bool
	frozen     bool
	closed     bool
	closedAt   time.Time // zero while open
	invoice    invoiceState
	agents     []*agentUsage
}

// invoiceState is what is known of the invoice of an ended period.
type invoiceState struct {
	id, status  string
	checkedAt   time.Time // zero: Stripe was never asked
	nextCheckAt time.Time
	concluded   bool // nothing more reaches the invoice, and the chain agrees with it
}

// agentUsage is what an agent used in a period.
type agentUsage struct {
	agent            string
	meter, lookupKey string
	limit            *int64 // nil: no limit
	price            decimal.Decimal
	count, overage   int64
}

// usageOf returns an agent's usage in p, nil if there is none.
func (p *period) usageOf(agent string) *agentUsage {
	for _, u := range p.agents {
		if u.agent == agent {
			return u
		}
	}
	return nil
}

func (p *period) ended(now time.Time) bool { return !now.Before(p.end) }

// summaryWindow is the period in whole minutes, as Stripe's summaries want it.
// Timestamps keep a minute's distance from both ends, so the window contains
// nothing of a neighbouring period.
func (p *period) summaryWindow() (from, to time.Time) {
	return p.start.Truncate(time.Minute), ceil(p.end, time.Minute)
}

// contains reports whether a report with the timestamp is billed in p.
func (p *period) contains(t time.Time) bool { return !t.Before(p.start) && t.Before(p.end) }

// timestamp is the timestamp of a report that is sent now and billed in p.
func (p *period) timestamp(now time.Time) time.Time {
	first, last := p.start.Add(edgeMargin), p.end.Add(-edgeMargin)
	switch t := now.Truncate(time.Second); {
	case first.After(last):
		return p.start.Add(p.end.Sub(p.start) / 2).Truncate(time.Second)
	case t.Before(first):
		return ceil(first, time.Second)
	case t.After(last):
		return last.Truncate(time.Second)
	default:
		return t
	}
}

// ceil rounds up to a whole unit.
func ceil(t time.Time, unit time.Duration) time.Time {
	if whole := t.Truncate(unit); whole.Before(t) {
		return whole.Add(unit)
	}
	return t
}

// periodAt returns the unsettled period that contains t, nil if there is none.
func (a *tenantAccount) periodAt(t time.Time) *period {
	for _, p := range a.periods {
		if p.contains(t) {
			return p
		}
	}
	return nil
}

// billedCustomer is the customer to whom a period is billed. While it runs,
// this is the tenant's customer of today; once it has ended, the one that it
// had, or the one to whom it was reported.
func (a *tenantAccount) billedCustomer(in *period) string {
	if in.customer != "" {
		return in.customer
	}
	customer := a.customer
	for _, e := range a.entries {
		if in.frozen && e.Period.Equal(in.start) && e.State.isAccepted() && e.Billed.Equal(in.start) {
			customer = e.Customer
		}
	}
	return customer
}

// chain returns the entries of an agent's period, in order.
func (a *tenantAccount) chain(start time.Time, agent string) []*LedgerEntry {
	var chain []*LedgerEntry
	for _, e := range a.entries {
		if e.Agent == agent && e.Period.Equal(start) {
			chain = append(chain, e)
		}
	}
	return chain
}

// hasUndecided reports whether the target has an undecided entry.
func (a *tenantAccount) hasUndecided(t MeterTarget) bool {
	return slices.ContainsFunc(a.entries, func(e *LedgerEntry) bool { return e.MeterTarget == t && e.State.undecided() })
}

// hasOverage reports whether any overage arose in a period or was billed in it.
func (a *tenantAccount) hasOverage(in *period) bool {
	return slices.ContainsFunc(in.agents, func(u *agentUsage) bool { return u.overage != 0 }) ||
		slices.ContainsFunc(a.entries, func(e *LedgerEntry) bool {
			return e.Period.Equal(in.start) || in.contains(e.ReportedAt)
		})
}

// differs reports whether a period's chains differ from its overage.
func (a *tenantAccount) differs(in *period) bool {
	return slices.ContainsFunc(in.agents, func(u *agentUsage) bool {
		return totalReported(a.chain(in.start, u.agent)) != u.overage
	})
}

// sentToMeter is what Stripe's meter holds for a target with timestamps in p.
func (a *tenantAccount) sentToMeter(t MeterTarget, p *period) (sum int64) {
	for _, e := range a.entries {
		if e.MeterTarget == t && e.shownByMeter() && p.contains(e.ReportedAt) {
			sum += e.Delta()
		}
	}
	return sum
}

// lastTotals returns the last accepted total of each target in a chain.
func lastTotals(chain []*LedgerEntry) map[MeterTarget]int64 {
	last := map[MeterTarget]int64{}
	for _, e := range chain {
		if e.State.isAccepted() {
			last[e.MeterTarget] = e.To
		}
	}
	return last
}

// totalReported is how much of a period's overage some invoice has or will
// have.
func totalReported(chain []*LedgerEntry) (sum int64) {
	for _, total := range lastTotals(chain) {
		sum += total
	}
	return sum
}

func nextRevision(chain []*LedgerEntry) int {
	if len(chain) == 0 {
		return 1
	}
	return chain[len(chain)-1].Revision + 1
}

// One row for each agent of an unsettled period that has started. A closed
// period has its own totals, an ended one frozen allowances; an agent that was
// added to the catalogue later has neither and is not included.
const loadPeriodsSQL = `
select
    p.tenant_id,
    coalesce(s.stripe_customer, ''),
    coalesce(s.stripe_subscription, ''),
    s.status,
    p.period_start,
    p.period_end,
    case when p.frozen_at is null then '' else coalesce(p.stripe_customer, '') end as customer,
    p.trial,
    p.frozen_at is not null as frozen,
    p.status = 'closed' as closed,
    p.closed_at,
    coalesce(i.stripe_invoice, ''),
    coalesce(i.status, ''),
    i.checked_at,
    i.next_check_at,
    i.concluded_at is not null,
    a.agent,
    a.meter,
    a.lookup_key,
    case
        when t.agent is not null then t."limit"
        when p.trial or p.plan_id is null then null
        when p.frozen_at is not null then case when f.agent is null then 0 else f."limit" end
        else case when l.agent is null then 0 else l."limit" end
    end as "limit",
    coalesce(t.unit_price, f.unit_price, a.unit_price) as unit_price,
    coalesce(t.count, u.count, 0) as count
from billing_periods p
join subscriptions s using (tenant_id)
cross join agents a
left join period_invoices i on i.tenant_id = p.tenant_id and i.period_start = p.period_start
left join period_totals t on t.tenant_id = p.tenant_id and t.period_start = p.period_start and t.agent = a.agent
left join period_allowances f on f.tenant_id = p.tenant_id and f.period_start = p.period_start and f.agent = a.agent
left join allowances l on l.plan_id = p.plan_id and l.agent = a.agent
left join usage_counters u on u.tenant_id = p.tenant_id and u.period_start = p.period_start and u.agent = a.agent
where p.tenant_id = any($1)
  and p.settled_at is null
  and p.period_start <= $2
order by p.tenant_id, p.period_start, a.position, a.agent`

// load reads the accounts of tenants, ordered by tenant, in one snapshot.
func (r *Reporter) load(ctx context.Context, tenants []uuid.UUID, now time.Time) ([]*tenantAccount, error) {
	var accounts []*tenantAccount
	err := pgx.BeginTxFunc(ctx, r.Pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) (err error) {
		if accounts, err = loadPeriods(ctx, tx, tenants, now); err != nil {
			return err
		}
		return loadEntries(ctx, tx, accounts)
	})
	return accounts, err
}

func loadPeriods(ctx context.Context, tx pgx.Tx, tenants []uuid.UUID, now time.Time) ([]*tenantAccount, error) {
	var accounts []*tenantAccount
	var a tenantAccount
	var p period
	var u agentUsage
	var closedAt, checkedAt, nextCheckAt *time.Time
	rows, _ := tx.Query(ctx, loadPeriodsSQL, tenants, now)
	_, err := pgx.ForEachRow(rows, []any{
		&a.tenant, &a.customer, &a.subscription, &a.status,
		&p.start, &p.end, &p.customer, &p.trial, &p.frozen, &p.closed, &closedAt,
		&p.invoice.id, &p.invoice.status, &checkedAt, &nextCheckAt, &p.invoice.concluded,
		&u.agent, &u.meter, &u.lookupKey, &u.limit, &u.price, &u.count,
	}, func() error {
		if n := len(accounts); n == 0 || accounts[n-1].tenant != a.tenant {
			accounts = append(accounts, &tenantAccount{tenant: a.tenant, customer: a.customer, subscription: a.subscription, status: a.status})
		}
		account := accounts[len(accounts)-1]
		if n := len(account.periods); n == 0 || !account.periods[n-1].start.Equal(p.start) {
			fresh := p
			fresh.start, fresh.end = p.start.UTC(), p.end.UTC()
			fresh.closedAt, fresh.invoice.checkedAt, fresh.invoice.nextCheckAt = orZero(closedAt), orZero(checkedAt), orZero(nextCheckAt)
			account.periods = append(account.periods, &fresh)
		}
		last := account.periods[len(account.periods)-1]
		u.overage = odometer.Overage(u.count, u.limit)
		used := u
		last.agents = append(last.agents, &used)
		u.limit = nil
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("load periods of %d tenants: %w", len(tenants), err)
	}
	return accounts, nil
}

func orZero(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}

// Line is an agent's overage in a period for bookkeepers, in units and
// hundredths of the currency.
type Line struct {
	Tenant      uuid.UUID `json:"tenant_id"`
	Agent       string    `json:"agent"`
	PeriodStart time.Time `json:"period_start"`
	PeriodEnd   time.Time `json:"period_end"`
	Used        int64     `json:"used"`
	Limit       *int64    `json:"limit"` // null: no limit
	Overage     int64     `json:"overage"`
	Reported    int64     `json:"told"`
	ToReport    int64     `json:"to_tell"`
	AmountCents int64     `json:"amount_cents"` // of ToReport
	Customer    string    `json:"stripe_customer"`
}

// Statement lists what a pass would report, and what was reported, in all
// periods that are not settled: the lines with any overage. It reads Postgres
// alone, calls each for every line and changes nothing.
func (r *Reporter) Statement(ctx context.Context, tenant *uuid.UUID, each func(Line)) error {
	return r.eachTenantPage(ctx, tenant, func(tenants []uuid.UUID) error {
		accounts, err := r.load(ctx, tenants, r.now())
		if err != nil {
			return err
		}
		for _, a := range accounts {
			a.lines(each)
		}
		return nil
	})
}

func (a *tenantAccount) lines(each func(Line)) {
	for _, in := range a.periods {
		for _, u := range in.agents {
			reported := totalReported(a.chain(in.start, u.agent))
			if u.overage == 0 && reported == 0 {
				continue
			}
			each(Line{
				Tenant: a.tenant, Agent: u.agent, PeriodStart: in.start, PeriodEnd: in.end,
				Used: u.count, Limit: u.limit, Overage: u.overage, Reported: reported, ToReport: u.overage - reported,
				AmountCents: odometer.CostCents(u.overage-reported, u.price), Customer: a.customer,
			})
		}
	}
}
