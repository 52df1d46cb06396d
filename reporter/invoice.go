package reporter

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stripe/stripe-go/v76"

	"odometer/audit/findings"
)

// When to read an invoice again that is still a draft, or does not exist yet.
const (
	draftRecheck   = 20 * time.Minute
	missingRecheck = time.Hour
)

// invoiceCheckDue reports whether the invoice of an ended period should be read
// now: when something was or is to be reported in it, and no final one is
// known.
func (p *planner) invoiceCheckDue(a *tenantAccount, in *period) bool {
	i := &in.invoice
	if a.billedCustomer(in) == "" || i.concluded || !in.ended(p.now) || !a.hasOverage(in) {
		return false
	}
	return p.byHand || i.checkedAt.IsZero() || !p.now.Before(i.nextCheckAt) || in.closedAt.After(i.checkedAt) ||
		p.now.Sub(i.checkedAt) > time.Minute && a.differs(in)
}

// readInvoice reads the invoice of an ended period and stores what it says.
// Once nothing more can reach the invoice, it corrects the chain to the
// invoice's quantities.
func (r *Reporter) readInvoice(ctx context.Context, p *planner, a *tenantAccount, in *period) error {
	if err := r.readLimit.Wait(ctx); err != nil {
		return err
	}
	var invoice *fetchedInvoice
	customer := a.billedCustomer(in)
	err := r.readBreaker.do(customer, func() (err error) {
		invoice, err = r.Stripe.invoiceOf(ctx, customer, in)
		return err
	})
	if err != nil {
		return err
	}
	// Without an invoice, what was reported is what will be billed, so no
	// entry may be open then.
	concluded := invoice.final() || invoice == nil && p.now.Sub(in.end) >= draftFor && len(a.unanswered(in)) == 0
	return pgx.BeginFunc(ctx, r.Pool, func(tx pgx.Tx) error {
		if err := storeInvoice(ctx, tx, a.tenant, in, invoice, p.now, concluded); err != nil || !concluded {
			return err
		}
		if err := a.acceptBilledCarries(ctx, tx, p, in, invoice); err != nil {
			return err
		}
		if err := storeCorrections(ctx, tx, p, a, in, invoiceCorrections(p, a, in, invoice)); err != nil {
			return err
		}
		return r.recordNotBilled(ctx, tx, a, in, invoice)
	})
}

// invoiceCorrections are the entries that bring a period's chains to what its
// invoice bills.
func invoiceCorrections(p *planner, a *tenantAccount, in *period, invoice *fetchedInvoice) []*LedgerEntry {
	var entries []*LedgerEntry
	for _, u := range in.agents {
		billed, ok := invoice.quantity(u.agent)
		if !ok {
			continue
		}
		chain := a.chain(in.start, u.agent)
		target := p.billedTarget(a, in, u, chain)
		if off := a.ownUsage(in, u, target.Customer, billed) - totalReportedTo(chain, target.Customer); off != 0 {
			had := lastTotals(chain)[target]
			e := p.newEntry(a, in, in, u, target, chain, had, had+off)
			e.Origin, e.State, e.Decided = OriginInvoiced, Verified, &p.now
			e.Detail = "the final invoice bills this"
			entries = append(entries, e)
		}
	}
	return entries
}

// ownUsage is how much of a period's own usage a customer is billed, when the
// period's invoice bills a quantity: less what was carried into the period,
// plus what was carried out of it.
func (a *tenantAccount) ownUsage(in *period, u *agentUsage, customer string, billed int64) int64 {
	for _, e := range a.entries {
		mine, here := e.Period.Equal(in.start), in.contains(e.ReportedAt)
		switch {
		case e.Agent != u.agent || e.Customer != customer || !e.shownByMeter():
		case !mine && here:
			billed -= e.Delta()
		case mine && !here:
			billed += e.Delta()
		}
	}
	return billed
}

// totalReportedTo is how much a chain reported to a customer, by any meter or
// item.
func totalReportedTo(chain []*LedgerEntry, customer string) (sum int64) {
	for target, total := range lastTotals(chain) {
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

// recordNotBilled records findings for usage that the final invoice of a period
// does not bill: it is carried, but the customer sees it later.
func (r *Reporter) recordNotBilled(ctx context.Context, tx pgx.Tx, a *tenantAccount, in *period, invoice *fetchedInvoice) error {
	for _, u := range in.agents {
		chain := a.chain(in.start, u.agent)
		billed := totalReported(chain)
		if q, ok := invoice.quantity(u.agent); ok {
			billed = a.ownUsage(in, u, a.billedCustomer(in), q)
		}
		f := findings.Finding{
			Subject: fmt.Sprintf("%s %s %s", a.tenant, u.agent, in.start.Format(time.RFC3339)),
			Tenant:  a.tenant, Agent: u.agent, Period: in.start, FoundBy: "report", Before: &billed, After: &u.overage,
		}
		reported := totalReportedTo(chain, a.billedCustomer(in))
		_, listed := invoice.quantity(u.agent)
		switch {
		case reported != 0 && !listed:
			f.Kind, f.Subject = kindNotInvoiced, fmt.Sprintf("%s %s", a.tenant, u.agent)
			f.Detail = fmt.Sprintf("%d units were reported for customer %s, but no invoice of Stripe has a line for the meter or price %s in the period from %s: add the metered price to the subscription, and bill these by hand",
				reported, a.billedCustomer(in), u.lookupKey, in.start.Format(time.RFC3339))
		case billed != u.overage:
			f.Kind = kindLate
			f.Detail = fmt.Sprintf("%d units of overage were used, but the final invoice of customer %s bills %d: the rest is carried into the next period", u.overage, a.billedCustomer(in), billed)
		default:
			continue
		}
		if err := findings.Record(ctx, tx, f); err != nil {
			return err
		}
	}
	return nil
}

// unanswered returns the undecided entries that were sent into a period.
func (a *tenantAccount) unanswered(in *period) (entries []*LedgerEntry) {
	for _, e := range a.entries {
		if e.State.undecided() && e.FirstAttempt != nil && in.contains(e.ReportedAt) {
			entries = append(entries, e)
		}
	}
	return entries
}

const acceptBilledCarrySQL = `
update overage_reports
set state = 'verified',
    detail = 'the final invoice of the period that it was carried into bills it',
    decided_at = $2
where identifier = $1
  and state in ('sending', 'unknown')`

// acceptBilledCarries decides entries that were carried into a period without
// an answer. An invoice that bills exactly what it would bill without such an
// entry does not include it; any other does. Were that wrong, the period's own
// chain would be short by as much, and be carried. The opposite mistake would
// carry what was billed already.
func (a *tenantAccount) acceptBilledCarries(ctx context.Context, tx pgx.Tx, p *planner, in *period, invoice *fetchedInvoice) error {
	for _, e := range a.unanswered(in) {
		u := in.usageOf(e.Agent)
		if invoice == nil || u == nil || e.Period.Equal(in.start) {
			continue
		}
		billed, ok := invoice.quantities[e.Agent]
		if !ok || a.ownUsage(in, u, e.Customer, billed) == totalReportedTo(a.chain(in.start, e.Agent), e.Customer) {
			continue
		}
		if _, err := tx.Exec(ctx, acceptBilledCarrySQL, e.Identifier, p.now); err != nil {
			return fmt.Errorf("decide ledger entry %s by the final invoice: %w", e.Identifier, err)
		}
		e.State = Verified
	}
	return nil
}

// The invoice of a period decides what is still undecided in it: what arrived
// is in its quantity, what did not arrive never will.
const rejectUndecidedSQL = `
update overage_reports
set state = 'rejected',
    detail = 'decided by the final invoice of the period',
    decided_at = $4
where tenant_id = $1
  and state in ('planned', 'sending', 'unknown')
  and reported_at >= $2
  and reported_at < $3`

func storeCorrections(ctx context.Context, tx pgx.Tx, p *planner, a *tenantAccount, in *period, entries []*LedgerEntry) error {
	if _, err := tx.Exec(ctx, rejectUndecidedSQL, a.tenant, in.start, in.end, p.now); err != nil {
		return fmt.Errorf("reject undecided entries of tenant %s in the period from %s: %w", a.tenant, in.start.Format(time.RFC3339), err)
	}
	_, err := insertEntries(ctx, tx, entries)
	return err
}

const storeInvoiceSQL = `
insert into period_invoices as i (tenant_id, period_start, stripe_invoice, status, checked_at, next_check_at, concluded_at)
values ($1, $2, nullif($3, ''), nullif($4, ''), $5, $6, $7)
on conflict (tenant_id, period_start) do update
set stripe_invoice = coalesce(excluded.stripe_invoice, i.stripe_invoice),
    status = coalesce(excluded.status, i.status),
    checked_at = excluded.checked_at,
    next_check_at = excluded.next_check_at,
    concluded_at = coalesce(i.concluded_at, excluded.concluded_at)`

func storeInvoice(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, in *period, invoice *fetchedInvoice, now time.Time, concluded bool) error {
	next, id, status := now.Add(missingRecheck), "", ""
	if invoice != nil {
		next, id, status = now.Add(draftRecheck), invoice.id, invoice.status
	}
	var concludedAt *time.Time
	if concluded {
		concludedAt = &now
	}
	if _, err := tx.Exec(ctx, storeInvoiceSQL, tenant, in.start, id, status, now, next, concludedAt); err != nil {
		return fmt.Errorf("store the invoice of tenant %s for the period from %s: %w", tenant, in.start.Format(time.RFC3339), err)
	}
	return nil
}

const recheckInvoicesSQL = `
update period_invoices i
set next_check_at = least(i.next_check_at, $2)
from subscriptions s
where s.tenant_id = i.tenant_id
  and i.concluded_at is null
  and ($1 = '' or s.stripe_customer = $1)`

// RecheckInvoices makes the next pass read the invoices of a customer's ended
// periods, or with "" of all, because a hook said that they have changed.
func RecheckInvoices(ctx context.Context, q querier, customer string, now time.Time) error {
	if _, err := q.Exec(ctx, recheckInvoicesSQL, customer, now); err != nil {
		return fmt.Errorf("have the invoices of customer %q read again: %w", customer, err)
	}
	return nil
}

// fetchedInvoice is the part of an invoice that concerns one period.
type fetchedInvoice struct {
	id, status string
	quantities map[string]int64 // billed for the period, by agent
}

func (i *fetchedInvoice) final() bool {
	return i != nil && i.status != string(stripe.InvoiceStatusDraft)
}

// quantity is what the invoice bills for an agent; listed is false without a
// line.
func (i *fetchedInvoice) quantity(agent string) (units int64, listed bool) {
	if i == nil {
		return 0, false
	}
	units, listed = i.quantities[agent]
	return units, listed
}

// invoiceOf finds the invoice that bills the usage of a period: the one with
// lines of our meters or prices that start with the period. It is nil when
// there is none (yet).
func (s *Stripe) invoiceOf(ctx context.Context, customer string, p *period) (*fetchedInvoice, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*CallTimeout)
	defer cancel()
	agents, err := s.agentsByPrice(ctx, p)
	if err != nil {
		return nil, err
	}
	params := &stripe.InvoiceListParams{ListParams: pages(ctx), Customer: stripe.String(customer)}
	params.CreatedRange = &stripe.RangeQueryParams{GreaterThanOrEqual: p.end.Add(-time.Hour).Unix()}
	var match *fetchedInvoice
	list := s.API.Invoices.List(params)
	for list.Next() {
		invoice := list.Invoice()
		quantities, err := s.quantitiesOf(ctx, invoice, p, agents)
		if err != nil {
			return nil, err
		}
		// Newest first: the oldest one that bills the period is the period's
		// own.
		if len(quantities) > 0 {
			match = &fetchedInvoice{id: invoice.ID, status: string(invoice.Status), quantities: quantities}
		}
	}
	if err := list.Err(); isAbsent(err) || Classify(err, false) == OutcomeRejected {
		return nil, nil // no such customer: sending will say so
	} else if err != nil {
		return nil, fmt.Errorf("list invoices of %s: %w", customer, err)
	}
	return match, nil
}

// agentsByPrice maps meter ids and lookup keys, as they are in an invoice's
// lines, to agents.
func (s *Stripe) agentsByPrice(ctx context.Context, p *period) (map[string]string, error) {
	agents := map[string]string{}
	for _, u := range p.agents {
		if u.lookupKey != "" {
			agents[u.lookupKey] = u.agent
		}
		id, err := s.meterID(ctx, u.meter)
		if err != nil {
			return nil, err
		}
		if id != "" {
			agents[id] = u.agent
		}
	}
	return agents, nil
}

// startTolerance is how far, in seconds, a line's start may be from our
// period's: a period that was set by hand may differ from Stripe's.
const startTolerance = 60

// billsPeriod reports whether a line of an invoice bills usage of a period.
func billsPeriod(invoice *stripe.Invoice, line *stripe.InvoiceLineItem, p *period) bool {
	start := invoice.PeriodStart
	if line.Period != nil && line.Period.Start != line.Period.End {
		start = line.Period.Start
	}
	off := start - p.start.Unix()
	return -startTolerance <= off && off <= startTolerance
}

// quantitiesOf adds up, by agent, the metered lines of an invoice that start
// with a period.
func (s *Stripe) quantitiesOf(ctx context.Context, invoice *stripe.Invoice, p *period, agents map[string]string) (map[string]int64, error) {
	quantities := map[string]int64{}
	add := func(line *stripe.InvoiceLineItem) {
		if agent := agentOf(line.Price, agents); agent != "" && billsPeriod(invoice, line, p) {
			quantities[agent] += line.Quantity
		}
	}
	if invoice.Lines != nil && !invoice.Lines.HasMore {
		for _, line := range invoice.Lines.Data {
			add(line)
		}
		return quantities, nil
	}
	params := &stripe.InvoiceListLinesParams{ListParams: pages(ctx), Invoice: stripe.String(invoice.ID)}
	lines := s.API.Invoices.ListLines(params)
	for lines.Next() {
		add(lines.InvoiceLineItem())
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("list the lines of invoice %s: %w", invoice.ID, err)
	}
	return quantities, nil
}

// agentOf is the agent whose usage a price bills, "" for any other price.
func agentOf(price *stripe.Price, agents map[string]string) string {
	if price == nil {
		return ""
	}
	if price.Recurring != nil && price.Recurring.Meter != "" {
		if agent, ours := agents[price.Recurring.Meter]; ours {
			return agent
		}
	}
	return agents[price.LookupKey]
}
