package stripetest

import (
	"math/big"
	"net/http"
	"time"
)

// Invoice bills one period: a draft, then open. Its period is the ended one,
// whose usage it bills.
type Invoice struct {
	ID, Customer, Subscription, Status string
	PeriodStart, PeriodEnd, Created    time.Time
	FinalizedAt                        *time.Time
	Lines                              []Line
}

// Line bills one item. A metered one is for the ended period, a licensed one for
// the period after it.
type Line struct {
	Item, PriceID, LookupKey, Meter string
	PeriodStart, PeriodEnd          time.Time
	Quantity                        int64
}

type invoice struct {
	Invoice
	lines      []*invoiceLine
	number     int
	staysDraft bool // a draft until someone finalizes it
}

type invoiceLine struct {
	Line
	id   string
	item Item
	free bool // usage of a trial
}

func (inv *invoice) key() string { return inv.ID }
func (inv *invoice) index() int  { return inv.number }

// draft makes the invoice of the period that ends at a time, with the licensed
// items of the next one. It exists only once it is issued.
func (s *Server) draft(sub *subscription, end time.Time, next *period) *invoice {
	inv := &invoice{staysDraft: sub.Status == "unpaid", Invoice: Invoice{ID: s.id("in"), Customer: sub.Customer, Subscription: sub.ID,
		Status: "draft", PeriodStart: sub.Start, PeriodEnd: end, Created: end}}
	for _, it := range sub.Items {
		line := &invoiceLine{id: s.id("il"), item: it, free: sub.Status == "trialing", Line: Line{Item: it.ID, PriceID: it.PriceID,
			LookupKey: it.LookupKey, Meter: it.Meter, PeriodStart: sub.Start, PeriodEnd: end, Quantity: 1}}
		if !it.Metered {
			if next == nil {
				continue
			}
			line.PeriodStart, line.PeriodEnd = next.start, next.end
		}
		inv.lines = append(inv.lines, line)
	}
	s.refresh(inv)
	return inv
}

// refresh reads the quantities of the metered lines from the usage of their
// period, as Stripe does when it creates an invoice and when it finalizes it.
func (s *Server) refresh(inv *invoice) {
	for _, line := range inv.lines {
		switch {
		case !line.item.Metered:
		case line.free:
			line.Quantity = 0
		case line.Meter != "":
			line.Quantity = max(0, s.total(ledgerKey{inv.Customer, line.Meter}, line.PeriodStart, line.PeriodEnd))
		default:
			line.Quantity = s.records[line.Item].total(line.PeriodStart, line.PeriodEnd)
		}
	}
}

// issue makes an invoice exist, and become final after its time as a draft.
func (s *Server) issue(inv *invoice, at time.Time) {
	inv.number = len(s.invoices.all)
	s.invoices.add(inv)
	c, sub := s.customers[inv.Customer], s.mustSubscription(inv.Subscription)
	c.invoices = append(c.invoices, inv)
	sub.latest = inv
	if !inv.staysDraft {
		s.timers.at(at.Add(s.options.DraftTime), func(at time.Time) { s.finalize(inv, at) })
	}
	s.emit("invoice.created", s.showInvoice(inv, false), at)
}

// finalize makes a draft final: nothing changes its quantities afterwards.
func (s *Server) finalize(inv *invoice, at time.Time) {
	if inv.Status != "draft" {
		return
	}
	s.refresh(inv)
	inv.Status, inv.FinalizedAt = "open", &at
	s.emit("invoice.finalized", s.showInvoice(inv, false), at)
}

// Invoices returns a customer's invoices, oldest first.
func (s *Server) Invoices(customer string) []Invoice {
	s.lockNow()
	defer s.mu.Unlock()
	c := s.mustCustomer(customer)
	all := make([]Invoice, 0, len(c.invoices))
	for _, held := range c.invoices {
		inv := held.Invoice
		for _, line := range held.lines {
			inv.Lines = append(inv.Lines, line.Line)
		}
		all = append(all, inv)
	}
	return all
}

// FinalizeInvoice ends an invoice's time as a draft now.
func (s *Server) FinalizeInvoice(id string) {
	now := s.lockNow()
	defer s.mu.Unlock()
	inv, found := s.invoices.get(id)
	if !found {
		panic("stripetest: no such invoice: " + id)
	}
	s.finalize(inv, now)
}

func (s *Server) listInvoices(req *request) answer {
	s.lockNow()
	defer s.mu.Unlock()
	among := s.invoices.all
	if id := req.get("customer"); id != "" {
		c := s.customers[id]
		if c == nil {
			return noSuch(http.StatusBadRequest, "customer", id, "customer")
		}
		among = c.invoices
	}
	sub, status, expanded := req.get("subscription"), req.get("status"), req.expands("customer")
	if sub != "" {
		held, found := s.subscriptions.get(sub)
		if !found {
			return noSuch(http.StatusBadRequest, "subscription", sub, "subscription")
		}
		if req.get("customer") == "" {
			among = s.customers[held.Customer].invoices
		}
	}
	return list(req, &s.invoices, among,
		func(inv *invoice) bool {
			return (sub == "" || inv.Subscription == sub) && (status == "" || inv.Status == status)
		},
		func(inv *invoice) object { return s.showInvoice(inv, expanded) })
}

func (s *Server) getInvoice(req *request) answer {
	return withResource(s, req, &s.invoices, "invoice", "invoice", func(inv *invoice, _ time.Time) answer {
		return ok(s.showInvoice(inv, req.expands("customer")))
	})
}

func (s *Server) listInvoiceLines(req *request) answer {
	return withResource(s, req, &s.invoices, "invoice", "invoice", func(inv *invoice, _ time.Time) answer {
		return listRows(req, s.showLines(inv))
	})
}

func (s *Server) postFinalize(req *request) answer {
	return withResource(s, req, &s.invoices, "invoice", "invoice", func(inv *invoice, now time.Time) answer {
		if inv.Status != "draft" {
			return refused(http.StatusBadRequest, apiError{Type: invalidRequest, Code: "invoice_not_editable",
				Message: "This invoice is already finalized, you can't re-finalize a non-draft invoice."})
		}
		s.finalize(inv, now)
		return ok(s.showInvoice(inv, req.expands("customer")))
	})
}

// showInvoice contains the first lines; all are at the invoice's lines.
func (s *Server) showInvoice(inv *invoice, expanded bool) object {
	lines := s.showLines(inv)
	page := pageOf("/v1/invoices/"+inv.ID+"/lines", lines[:min(len(lines), defaultPageSize)], len(lines) > defaultPageSize)
	page["total_count"] = len(lines)
	total := int64(0)
	for _, line := range inv.lines {
		total += line.amount()
	}
	return object{"id": inv.ID, "object": "invoice", "livemode": s.options.Livemode, "status": inv.Status,
		"customer": s.customerField(inv.Customer, expanded), "subscription": inv.Subscription, "lines": page,
		"billing_reason": "subscription_cycle", "collection_method": "charge_automatically", "currency": "usd",
		"auto_advance": inv.Status == "draft" && !inv.staysDraft, "metadata": object{}, "paid": false,
		"created": inv.Created.Unix(), "period_start": inv.PeriodStart.Unix(), "period_end": inv.PeriodEnd.Unix(),
		"status_transitions": object{"finalized_at": unixOrNull(inv.FinalizedAt), "marked_uncollectible_at": nil,
			"paid_at": nil, "voided_at": nil},
		"subtotal": total, "total": total, "amount_due": total, "amount_paid": 0, "amount_remaining": total}
}

func (s *Server) showLines(inv *invoice) []object {
	sub := s.mustSubscription(inv.Subscription)
	rows := make([]object, len(inv.lines))
	for i, line := range inv.lines {
		rows[i] = object{"id": line.id, "object": "line_item", "livemode": s.options.Livemode, "invoice": inv.ID,
			"subscription": inv.Subscription, "subscription_item": line.Item, "type": "subscription",
			"quantity": line.Quantity, "amount": line.amount(), "currency": "usd", "proration": false,
			"period":   object{"start": line.PeriodStart.Unix(), "end": line.PeriodEnd.Unix()},
			"metadata": object{}, "price": s.showPrice(sub, line.item)}
	}
	return rows
}

// amount is in cents, with half a cent rounded up.
func (line *invoiceLine) amount() int64 {
	unit, valid := new(big.Rat).SetString(line.item.UnitAmountDecimal)
	if !valid {
		return 0
	}
	twice := unit.Mul(unit, big.NewRat(2*line.Quantity, 1))
	twice.Add(twice, big.NewRat(1, 1))
	return new(big.Int).Div(twice.Num(), new(big.Int).Lsh(twice.Denom(), 1)).Int64()
}
