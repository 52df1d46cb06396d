package reporter

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"odometer/audit/findings"
)

// When to ask again for an invoice that is still a draft, or not there yet.
const (
	draftLook   = 20 * time.Minute
	missingLook = time.Hour
)

// wantsLook reports whether the invoice of an ended period should be asked for
// now: when something was or is to be told in it, and what is known is not final.
func (p *planner) wantsLook(b *book, in *period) bool {
	i := &in.invoice
	if b.customerOf(in) == "" || i.fixed || !in.ended(p.now) || !b.concerns(in) {
		return false
	}
	return p.byHand || i.lookedAt.IsZero() || !p.now.Before(i.lookAt) || in.closedAt.After(i.lookedAt) ||
		p.now.Sub(i.lookedAt) > time.Minute && p.owes(b, in)
}

// concerns reports whether any overage arose in a period or was billed in it.
func (b *book) concerns(in *period) bool {
	for i := range in.agents {
		if in.agents[i].overage != 0 {
			return true
		}
	}
	for _, l := range b.links {
		if l.Period.Equal(in.start) || in.holds(l.ReportedAt) {
			return true
		}
	}
	return false
}

// owes reports whether a period's chains differ from what they should be.
func (p *planner) owes(b *book, in *period) bool {
	for i := range in.agents {
		if toldSoFar(b.chain(in.start, in.agents[i].agent)) != in.agents[i].overage {
			return true
		}
	}
	return false
}

// look asks for the invoice of an ended period and writes down what it says.
// Once nothing more can reach it, the chain is brought to its quantities. It
// reports whether that is so.
func (r *Reporter) look(ctx context.Context, p *planner, b *book, in *period) (fixed bool, err error) {
	if err := r.reads.Wait(ctx); err != nil {
		return false, err
	}
	var invoice *fetchedInvoice
	customer := b.customerOf(in)
	err = r.asking.do(customer, func() (err error) {
		invoice, err = r.Stripe.invoiceOf(ctx, customer, in)
		return err
	})
	if err != nil {
		return false, err
	}
	// Without an invoice to read, what was told is what will be billed: so that
	// must be known.
	fixed = invoice.final() || invoice == nil && p.now.Sub(in.end) >= draftFor && len(b.unanswered(in)) == 0
	err = pgx.BeginFunc(ctx, r.Pool, func(tx pgx.Tx) error {
		if err := noteInvoice(ctx, tx, b.tenant, in, invoice, p.now, fixed); err != nil || !fixed {
			return err
		}
		if err := b.arrived(ctx, tx, p, in, invoice); err != nil {
			return err
		}
		if err := fix(ctx, tx, p, b, in, fixes(p, b, in, invoice)); err != nil {
			return err
		}
		return r.missed(ctx, tx, b, in, invoice)
	})
	return fixed, err
}

// fixes are the links that bring a period's chains to what its invoice bills.
func fixes(p *planner, b *book, in *period, invoice *fetchedInvoice) []*Link {
	var links []*Link
	for i := range in.agents {
		u := &in.agents[i]
		billed, ok := invoice.quantity(u.agent)
		if !ok {
			continue
		}
		chain := b.chain(in.start, u.agent)
		target := p.targetIn(b, in, u, chain)
		if off := b.owned(in, u, target.Customer, billed) - toldTo(chain, target.Customer); off != 0 {
			had := totals(chain)[target]
			l := p.link(b, in, in, u, target, chain, had, had+off)
			l.Origin, l.State, l.Decided = invoiced, Verified, &p.now
			l.Detail = "the final invoice bills this"
			links = append(links, l)
		}
	}
	return links
}

// owned is how much of a period's own usage a customer is billed, when the
// period's invoice bills a quantity: less what other periods had carried into
// it, and with what of its own was carried elsewhere.
func (b *book) owned(in *period, u *use, customer string, billed int64) int64 {
	for _, l := range b.links {
		mine, here := l.Period.Equal(in.start), in.holds(l.ReportedAt)
		switch {
		case l.Agent != u.agent || l.Customer != customer || !l.metered():
		case !mine && here:
			billed -= l.Delta()
		case mine && !here:
			billed += l.Delta()
		}
	}
	return billed
}

// toldTo is what a chain says a customer was told, by whatever meter or item.
func toldTo(chain []*Link, customer string) (sum int64) {
	for target, total := range totals(chain) {
		if target.Customer == customer {
			sum += total
		}
	}
	return sum
}

const (
	kindLate        = "late_usage"
	kindNotInvoiced = "not_invoiced"
)

// missed tells the operators what the final invoice of a period does not bill
// although it was used: it is carried, but the customer sees it later.
func (r *Reporter) missed(ctx context.Context, tx pgx.Tx, b *book, in *period, invoice *fetchedInvoice) error {
	for i := range in.agents {
		u := &in.agents[i]
		chain := b.chain(in.start, u.agent)
		billed := toldSoFar(chain)
		if q, ok := invoice.quantity(u.agent); ok {
			billed = b.owned(in, u, b.customerOf(in), q)
		}
		f := findings.Finding{
			Subject: fmt.Sprintf("%s %s %s", b.tenant, u.agent, in.start.Format(time.RFC3339)),
			Tenant:  b.tenant, Agent: u.agent, Period: in.start, FoundBy: "report", Before: &billed, After: &u.overage,
		}
		told := toldTo(chain, b.customerOf(in))
		_, listed := invoice.quantity(u.agent)
		switch {
		case told != 0 && !listed:
			f.Kind, f.Subject = kindNotInvoiced, fmt.Sprintf("%s %s", b.tenant, u.agent)
			f.Detail = fmt.Sprintf("%d units were told for customer %s, but no invoice of Stripe has a line for the meter or price %s in the period from %s: add the metered price to the subscription, and bill these by hand",
				told, b.customerOf(in), u.lookupKey, in.start.Format(time.RFC3339))
		case billed != u.overage:
			f.Kind = kindLate
			f.Detail = fmt.Sprintf("%d units of overage were used, but the final invoice of customer %s bills %d: the rest is carried into the next period", u.overage, b.customerOf(in), billed)
		default:
			continue
		}
		if err := findings.Record(ctx, tx, f); err != nil {
			return err
		}
	}
	return nil
}

// unanswered are the links that were sent into a period and not decided yet.
func (b *book) unanswered(in *period) (links []*Link) {
	for _, l := range b.links {
		if l.State.undecided() && l.FirstAttempt != nil && in.holds(l.ReportedAt) {
			links = append(links, l)
		}
	}
	return links
}

const arrivedSQL = `
update overage_reports
set state = 'verified',
    detail = 'the final invoice of the period that it was carried into bills it',
    decided_at = $2
where identifier = $1
  and state in ('sending', 'unknown')`

// arrived decides what was carried into a period without an answer. An invoice
// that bills just what it would without it, is without it. Any other has it;
// were that wrong, the period's own chain would come out short by as much, and
// carry it. The other mistake would carry what was billed already.
func (b *book) arrived(ctx context.Context, tx pgx.Tx, p *planner, in *period, invoice *fetchedInvoice) error {
	for _, l := range b.unanswered(in) {
		u := in.use(l.Agent)
		if invoice == nil || u == nil || l.Period.Equal(in.start) {
			continue
		}
		billed, ok := invoice.quantities[l.Agent]
		if !ok || b.owned(in, u, l.Customer, billed) == toldTo(b.chain(in.start, l.Agent), l.Customer) {
			continue
		}
		if _, err := tx.Exec(ctx, arrivedSQL, l.Identifier, p.now); err != nil {
			return fmt.Errorf("decide link %s by the final invoice: %w", l.Identifier, err)
		}
		l.State = Verified
	}
	return nil
}

// What is still undecided in a period is decided by its invoice: what arrived
// is in the quantity, what did not never will be.
const overruleSQL = `
update overage_reports
set state = 'rejected',
    detail = 'decided by the final invoice of the period',
    decided_at = $4
where tenant_id = $1
  and state in ('planned', 'sending', 'unknown')
  and reported_at >= $2
  and reported_at < $3`

func fix(ctx context.Context, tx pgx.Tx, p *planner, b *book, in *period, links []*Link) error {
	if _, err := tx.Exec(ctx, overruleSQL, b.tenant, in.start, in.end, p.now); err != nil {
		return fmt.Errorf("decide what was undecided for %s in the period from %s: %w", b.tenant, in.start.Format(time.RFC3339), err)
	}
	_, err := insertLinks(ctx, tx, links)
	return err
}

const noteInvoiceSQL = `
insert into period_invoices as i (tenant_id, period_start, stripe_invoice, status, looked_at, look_at, fixed_at)
values ($1, $2, nullif($3, ''), nullif($4, ''), $5, $6, $7)
on conflict (tenant_id, period_start) do update
set stripe_invoice = coalesce(excluded.stripe_invoice, i.stripe_invoice),
    status = coalesce(excluded.status, i.status),
    looked_at = excluded.looked_at,
    look_at = excluded.look_at,
    fixed_at = coalesce(i.fixed_at, excluded.fixed_at)`

func noteInvoice(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, in *period, invoice *fetchedInvoice, now time.Time, fixed bool) error {
	next, id, status := now.Add(missingLook), "", ""
	if invoice != nil {
		next, id, status = now.Add(draftLook), invoice.id, invoice.status
	}
	var fixedAt *time.Time
	if fixed {
		fixedAt = &now
	}
	if _, err := tx.Exec(ctx, noteInvoiceSQL, tenant, in.start, id, status, now, next, fixedAt); err != nil {
		return fmt.Errorf("note the invoice of tenant %s for the period from %s: %w", tenant, in.start.Format(time.RFC3339), err)
	}
	return nil
}

const lookAtSQL = `
update period_invoices i
set look_at = least(i.look_at, $2)
from subscriptions s
where s.tenant_id = i.tenant_id
  and i.fixed_at is null
  and ($1 = '' or s.stripe_customer = $1)`

// LookAt makes the next pass ask for the invoices of a customer's ended
// periods, or with "" for all: a hook said that something has happened to them.
func LookAt(ctx context.Context, q querier, customer string, now time.Time) error {
	if _, err := q.Exec(ctx, lookAtSQL, customer, now); err != nil {
		return fmt.Errorf("have the invoices of %q looked at: %w", customer, err)
	}
	return nil
}
