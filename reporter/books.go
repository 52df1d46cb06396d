package reporter

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/shopspring/decimal"

	"odometer"
)

// book is what a tenant owes and was told, as far as it is not settled.
type book struct {
	tenant       uuid.UUID
	customer     string // "" without a Stripe customer
	subscription string
	status       odometer.Status
	periods      []*period // unsettled and begun, in order
	links        []*Link   // of these periods, or billed in them; by period, agent, revision
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
	agents     []use
}

// invoiceState is what is known of an ended period's invoice.
type invoiceState struct {
	id, status string
	lookedAt   time.Time // zero: Stripe was never asked
	lookAt     time.Time
	fixed      bool // nothing more reaches the invoice, and the chain agrees with it
}

// use is an agent's share of a period.
type use struct {
	agent            string
	meter, lookupKey string
	limit            *int64 // nil: no limit
	price            decimal.Decimal
	count, overage   int64
}

// use finds an agent's share of p.
func (p *period) use(agent string) *use {
	for i := range p.agents {
		if p.agents[i].agent == agent {
			return &p.agents[i]
		}
	}
	return nil
}

func (p *period) ended(now time.Time) bool { return !now.Before(p.end) }

// window is the period in whole minutes, as summaries want it. Timestamps keep
// a minute's distance from the ends, so nothing of a neighbour lies in it.
func (p *period) window() (from, to time.Time) {
	to = p.end.Truncate(time.Minute)
	if to.Before(p.end) {
		to = to.Add(time.Minute)
	}
	return p.start.Truncate(time.Minute), to
}

// holds reports whether what was sent with the timestamp is billed in p.
func (p *period) holds(t time.Time) bool { return !t.Before(p.start) && t.Before(p.end) }

// timestamp is what a report sent now carries to be billed in p.
func (p *period) timestamp(now time.Time) time.Time {
	first, last := p.start.Add(edge), p.end.Add(-edge)
	switch t := now.Truncate(time.Second); {
	case first.After(last):
		return p.start.Add(p.end.Sub(p.start) / 2).Truncate(time.Second)
	case t.Before(first):
		return ceilSecond(first)
	case t.After(last):
		return last.Truncate(time.Second)
	default:
		return t
	}
}

func ceilSecond(t time.Time) time.Time {
	if whole := t.Truncate(time.Second); whole.Before(t) {
		return whole.Add(time.Second)
	}
	return t
}

// at finds the unsettled period that holds t.
func (b *book) at(t time.Time) *period {
	for _, p := range b.periods {
		if p.holds(t) {
			return p
		}
	}
	return nil
}

// customerOf is whom a period is billed to: as long as it runs, today's
// customer; once it has ended, the one that it had, or whoever was told of it.
func (b *book) customerOf(in *period) string {
	if in.customer != "" {
		return in.customer
	}
	customer := b.customer
	for _, l := range b.links {
		if in.frozen && l.Period.Equal(in.start) && l.State.counts() && l.Billed.Equal(in.start) {
			customer = l.Customer
		}
	}
	return customer
}

// chain is the links of an agent's period, in order.
func (b *book) chain(start time.Time, agent string) []*Link {
	var chain []*Link
	for _, l := range b.links {
		if l.Agent == agent && l.Period.Equal(start) {
			chain = append(chain, l)
		}
	}
	return chain
}

// busy reports whether a call for the target is undecided.
func (b *book) busy(t Target) bool {
	for _, l := range b.links {
		if l.Target == t && l.State.undecided() {
			return true
		}
	}
	return false
}

// metered is what Stripe's meter holds for a target with timestamps in p.
func (b *book) metered(t Target, p *period) (sum int64) {
	for _, l := range b.links {
		if l.Target == t && l.metered() && p.holds(l.ReportedAt) {
			sum += l.Delta()
		}
	}
	return sum
}

// totals are the last totals that stand, by target, of a chain.
func totals(chain []*Link) map[Target]int64 {
	last := map[Target]int64{}
	for _, l := range chain {
		if l.State.counts() {
			last[l.Target] = l.To
		}
	}
	return last
}

// toldSoFar is how much of a period's overage some invoice has or will have.
func toldSoFar(chain []*Link) (sum int64) {
	for _, total := range totals(chain) {
		sum += total
	}
	return sum
}

func nextRevision(chain []*Link) int {
	if len(chain) == 0 {
		return 1
	}
	return chain[len(chain)-1].Revision + 1
}

// One row for each agent of an unsettled period that has begun. A closed
// period has its own figures; one that has ended, frozen terms; in both an
// agent that came later has none and is not included.
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
    i.looked_at,
    i.look_at,
    i.fixed_at is not null,
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

// load reads the books of tenants, in order of their ids, as they stand in one
// snapshot.
func (r *Reporter) load(ctx context.Context, tenants []uuid.UUID, now time.Time) ([]*book, error) {
	var books []*book
	err := pgx.BeginTxFunc(ctx, r.Pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) (err error) {
		if books, err = loadPeriods(ctx, tx, tenants, now); err != nil {
			return err
		}
		return loadLinks(ctx, tx, books)
	})
	return books, err
}

func loadPeriods(ctx context.Context, tx pgx.Tx, tenants []uuid.UUID, now time.Time) ([]*book, error) {
	var books []*book
	var b book
	var p period
	var u use
	var closedAt, lookedAt, lookAt *time.Time
	rows, _ := tx.Query(ctx, loadPeriodsSQL, tenants, now)
	_, err := pgx.ForEachRow(rows, []any{
		&b.tenant, &b.customer, &b.subscription, &b.status,
		&p.start, &p.end, &p.customer, &p.trial, &p.frozen, &p.closed, &closedAt,
		&p.invoice.id, &p.invoice.status, &lookedAt, &lookAt, &p.invoice.fixed,
		&u.agent, &u.meter, &u.lookupKey, &u.limit, &u.price, &u.count,
	}, func() error {
		if n := len(books); n == 0 || books[n-1].tenant != b.tenant {
			books = append(books, &book{tenant: b.tenant, customer: b.customer, subscription: b.subscription, status: b.status})
		}
		own := books[len(books)-1]
		if n := len(own.periods); n == 0 || !own.periods[n-1].start.Equal(p.start) {
			fresh := p
			fresh.start, fresh.end = p.start.UTC(), p.end.UTC()
			fresh.closedAt, fresh.invoice.lookedAt, fresh.invoice.lookAt = orZero(closedAt), orZero(lookedAt), orZero(lookAt)
			own.periods = append(own.periods, &fresh)
		}
		last := own.periods[len(own.periods)-1]
		u.overage = odometer.Overage(u.count, u.limit)
		last.agents = append(last.agents, u)
		u.limit = nil
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("load periods of %d tenants: %w", len(tenants), err)
	}
	return books, nil
}

func orZero(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}
