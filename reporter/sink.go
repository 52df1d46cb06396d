package reporter

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/stripe/stripe-go/v76"
)

// send makes the call that tells Stripe a link. The Idempotency-Key is fresh
// each time: Stripe replays even a stored 500 to an old one. What counts once
// is the identifier, and for usage records the timestamp.
func (s *Stripe) send(ctx context.Context, l *Link) error {
	ctx, cancel := context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	if l.Sink == UsageRecords {
		return s.setUsage(ctx, l)
	}
	params := &stripe.BillingMeterEventParams{
		EventName:  stripe.String(l.Meter),
		Identifier: stripe.String(l.Identifier),
		Timestamp:  stripe.Int64(l.ReportedAt.Unix()),
		Payload: map[string]string{
			"stripe_customer_id": l.Customer,
			"value":              strconv.FormatInt(l.Value, 10),
		},
	}
	params.Context = ctx
	params.SetIdempotencyKey(uuid.NewString())
	_, err := s.API.BillingMeterEvents.New(params)
	return err
}

func (s *Stripe) setUsage(ctx context.Context, l *Link) error {
	params := &stripe.UsageRecordParams{
		SubscriptionItem: stripe.String(l.Meter),
		Quantity:         stripe.Int64(l.Value),
		Timestamp:        stripe.Int64(l.ReportedAt.Unix()),
		Action:           stripe.String(stripe.UsageRecordActionSet),
	}
	params.Context = ctx
	params.SetIdempotencyKey(uuid.NewString())
	_, err := s.API.UsageRecords.New(params)
	return err
}

// errNoMeter says that the account has no meter of a name.
var errNoMeter = errors.New("Stripe has no meter with that event name: create it, or name another in the catalogue")

// shown is what Stripe's own summary says about a target in a period. It lags
// behind what was accepted, by minutes as a rule.
func (r *Reporter) shown(ctx context.Context, sink Sink, t Target, p *period) (int64, error) {
	if err := r.reads.Wait(ctx); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	if sink == UsageRecords {
		return r.Stripe.usageShown(ctx, t.Meter, p)
	}
	return r.Stripe.meterShown(ctx, t, p)
}

func (s *Stripe) meterShown(ctx context.Context, t Target, p *period) (int64, error) {
	id, err := s.meterID(ctx, t.Meter)
	switch {
	case err != nil:
		return 0, err
	case id == "":
		return 0, fmt.Errorf("meter %s: %w", t.Meter, errNoMeter)
	}
	from, to := p.window()
	params := &stripe.BillingMeterEventSummaryListParams{
		ID: stripe.String(id), Customer: stripe.String(t.Customer),
		StartTime: stripe.Int64(from.Unix()), EndTime: stripe.Int64(to.Unix()),
	}
	params.Context = ctx
	params.Limit = stripe.Int64(100)
	sum := 0.0
	list := s.API.BillingMeterEventSummaries.List(params)
	for list.Next() {
		sum += list.BillingMeterEventSummary().AggregatedValue
	}
	if err := list.Err(); err != nil {
		return 0, fmt.Errorf("read the summary of meter %s for %s: %w", t.Meter, t.Customer, err)
	}
	if sum != math.Trunc(sum) || math.Abs(sum) > maxValue*10 {
		return 0, fmt.Errorf("the summary of meter %s for %s is %g, which is no whole number: something else reports to it", t.Meter, t.Customer, sum)
	}
	return int64(sum), nil
}

func (s *Stripe) usageShown(ctx context.Context, item string, p *period) (int64, error) {
	params := &stripe.UsageRecordSummaryListParams{SubscriptionItem: stripe.String(item)}
	params.Context = ctx
	params.Limit = stripe.Int64(100)
	list := s.API.UsageRecordSummaries.List(params)
	for list.Next() {
		summary := list.UsageRecordSummary()
		if summary.Period != nil && coversPeriod(summary.Period, p) {
			return summary.TotalUsage, nil
		}
	}
	if err := list.Err(); err != nil {
		return 0, fmt.Errorf("read the usage of item %s: %w", item, err)
	}
	return 0, nil
}

// coversPeriod reports whether Stripe's period is ours: the running one has no
// end yet, an item's first no start.
func coversPeriod(theirs *stripe.Period, ours *period) bool {
	middle := ours.start.Add(ours.end.Sub(ours.start) / 2).Unix()
	return (theirs.Start == 0 || theirs.Start <= middle) && (theirs.End == 0 || middle < theirs.End)
}

// meteredItems are the subscription's items that are billed by usage, by the
// lookup key of their price.
func (s *Stripe) meteredItems(ctx context.Context, subscription string) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	params := &stripe.SubscriptionParams{}
	params.Context = ctx
	sub, err := s.API.Subscriptions.Get(subscription, params)
	var said *stripe.Error
	switch {
	case errors.As(err, &said) && said.HTTPStatusCode == http.StatusNotFound:
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("get subscription %s: %w", subscription, err)
	}
	items := map[string]string{}
	if sub.Items != nil {
		for _, item := range sub.Items.Data {
			if item.Price != nil && item.Price.LookupKey != "" {
				items[item.Price.LookupKey] = item.ID
			}
		}
	}
	return items, nil
}

// fetchedInvoice is an invoice as it concerns one period.
type fetchedInvoice struct {
	id, status string
	quantities map[string]int64 // billed for the period, by agent
}

func (i *fetchedInvoice) final() bool {
	return i != nil && i.status != string(stripe.InvoiceStatusDraft)
}

// quantity is what the invoice bills for an agent, if it has a line for it.
func (i *fetchedInvoice) quantity(agent string) (units int64, listed bool) {
	if i == nil {
		return 0, false
	}
	units, listed = i.quantities[agent]
	return units, listed
}

// invoiceOf finds the invoice that bills the usage of a period, nil when there
// is none (yet): the one with lines of our meters or prices that begin with the
// period.
func (s *Stripe) invoiceOf(ctx context.Context, customer string, p *period) (*fetchedInvoice, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*CallTimeout)
	defer cancel()
	agents, err := s.billedAs(ctx, p)
	if err != nil {
		return nil, err
	}
	params := &stripe.InvoiceListParams{Customer: stripe.String(customer)}
	params.CreatedRange = &stripe.RangeQueryParams{GreaterThanOrEqual: p.end.Add(-time.Hour).Unix()}
	params.Context = ctx
	params.Limit = stripe.Int64(100)
	var match *fetchedInvoice
	list := s.API.Invoices.List(params)
	for list.Next() {
		invoice := list.Invoice()
		quantities, err := s.quantitiesOf(ctx, invoice, p, agents)
		if err != nil {
			return nil, err
		}
		// Newest first: the oldest that bills the period is its own.
		if len(quantities) > 0 {
			match = &fetchedInvoice{id: invoice.ID, status: string(invoice.Status), quantities: quantities}
		}
	}
	if err := list.Err(); isAbsent(err) || Judge(err, false) == Rejected {
		return nil, nil // no such customer: sending will tell
	} else if err != nil {
		return nil, fmt.Errorf("list invoices of %s: %w", customer, err)
	}
	return match, nil
}

// billedAs tells by which meter id or lookup key an invoice's line is an agent's.
func (s *Stripe) billedAs(ctx context.Context, p *period) (map[string]string, error) {
	agents := map[string]string{}
	for i := range p.agents {
		u := &p.agents[i]
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

// startTolerance is how far a line's start may lie from our period's: a period
// that was set by hand need not know Stripe's second.
const startTolerance = 60

// bills reports whether a line of an invoice is usage of a period.
func bills(invoice *stripe.Invoice, line *stripe.InvoiceLineItem, p *period) bool {
	start := invoice.PeriodStart
	if line.Period != nil && line.Period.Start != line.Period.End {
		start = line.Period.Start
	}
	off := start - p.start.Unix()
	return -startTolerance <= off && off <= startTolerance
}

// quantitiesOf adds up, by agent, the metered lines of an invoice that begin
// with a period.
func (s *Stripe) quantitiesOf(ctx context.Context, invoice *stripe.Invoice, p *period, agents map[string]string) (map[string]int64, error) {
	quantities := map[string]int64{}
	add := func(line *stripe.InvoiceLineItem) {
		if agent := agentOf(line.Price, agents); agent != "" && bills(invoice, line, p) {
			quantities[agent] += line.Quantity
		}
	}
	if invoice.Lines != nil && !invoice.Lines.HasMore {
		for _, line := range invoice.Lines.Data {
			add(line)
		}
		return quantities, nil
	}
	params := &stripe.InvoiceListLinesParams{Invoice: stripe.String(invoice.ID)}
	params.Context = ctx
	params.Limit = stripe.Int64(100)
	lines := s.API.Invoices.ListLines(params)
	for lines.Next() {
		add(lines.InvoiceLineItem())
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("list the lines of invoice %s: %w", invoice.ID, err)
	}
	return quantities, nil
}

// agentOf is whose usage a price bills, "" for any other price.
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
