package stripetest

import (
	"math/big"
	"net/http"
	"slices"
	"time"
)

// Invoice bills one period: a draft, then open. Its period is the ended one,
// whose usage it bills.
type Invoice struct {
	ID, Customer, Subscription, Status string
	PeriodStart, PeriodEnd, Created    time.Time
	FinalizedAt                        *time.Time
	Lines                              []Line

	staysDraft bool // a draft until someone finalizes it
}

// Line bills one item. A metered one is for the ended period, a licensed one for
// the period after it.
type Line struct {
	Item
	PeriodStart, PeriodEnd time.Time
	Quantity               int64

	id   string
	free bool // usage of a trial
}

func (inv *Invoice) key() string { return inv.ID }

// draft makes the invoice of the period that ends at a time, with the licensed
// items of the next one. It exists only once it is issued.
func (s *Server) draft(sub *Subscription, end time.Time, next *period) *Invoice {
	inv := &Invoice{ID: s.id("in"), Customer: sub.Customer, Subscription: sub.ID, Status: "draft",
		PeriodStart: sub.Start, PeriodEnd: end, Created: end, staysDraft: sub.Status == "unpaid"}
	for _, it := range sub.Items {
		line := Line{Item: it, PeriodStart: sub.Start, PeriodEnd: end, Quantity: 1, id: s.id("il"), free: sub.Status == "trialing"}
		if !it.Metered {
			if next == nil {
				continue
			}
			line.PeriodStart, line.PeriodEnd = next.start, next.end
		}
		inv.Lines = append(inv.Lines, line)
	}
	s.refresh(inv)
	return inv
}

// refresh reads the quantities of the metered lines from the usage of their
// period, as Stripe does when it creates an invoice and when it finalizes it.
func (s *Server) refresh(inv *Invoice) {
	for i := range inv.Lines {
		line := &inv.Lines[i]
		switch {
		case !line.Metered:
		case line.free:
			line.Quantity = 0
		case line.Meter != "":
			line.Quantity = max(0, s.total(ledgerKey{inv.Customer, line.Meter}, line.PeriodStart, line.PeriodEnd))
		default:
			line.Quantity = s.records[line.ID].total(line.PeriodStart, line.PeriodEnd)
		}
	}
}

// issue makes an invoice exist, and become final after its time as a draft.
func (s *Server) issue(inv *Invoice, at time.Time) {
	s.invoices.add(inv)
	c, sub := s.customers.of[inv.Customer], s.subscriptions.must(inv.Subscription)
	c.invoices = append(c.invoices, inv)
	sub.latest = inv
	if !inv.staysDraft {
		s.timers.at(at.Add(s.options.DraftTime), func(at time.Time) { s.finalize(inv, at) })
	}
	s.emit("invoice.created", s.showInvoice(inv, false), at)
}

// finalize makes a draft final: nothing changes its quantities afterwards.
func (s *Server) finalize(inv *Invoice, at time.Time) {
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
	c := s.customers.must(customer)
	all := make([]Invoice, 0, len(c.invoices))
	for _, held := range c.invoices {
		inv := *held
		inv.Lines = slices.Clone(held.Lines)
		all = append(all, inv)
	}
	return all
}

// FinalizeInvoice ends an invoice's time as a draft now.
func (s *Server) FinalizeInvoice(id string) {
	now := s.lockNow()
	defer s.mu.Unlock()
	s.finalize(s.invoices.must(id), now)
}

func (s *Server) listInvoices(req *request, _ time.Time) (object, error) {
	c, err := s.customers.named(req)
	if err != nil {
		return nil, err
	}
	among := s.invoices.all
	if c != nil {
		among = c.invoices
	}
	sub, err := s.subscriptions.named(req)
	if err != nil {
		return nil, err
	}
	if sub != nil && c == nil {
		among = s.customers.of[sub.Customer].invoices
	}
	status, expanded := req.get("status"), req.expands("customer")
	return list(req, slices.Backward(among),
		func(inv *Invoice) bool {
			return (sub == nil || inv.Subscription == sub.ID) && (status == "" || inv.Status == status)
		},
		func(inv *Invoice) object { return s.showInvoice(inv, expanded) })
}

func (s *Server) getInvoice(req *request, _ time.Time) (object, error) {
	return s.invoices.with(req, "invoice", func(inv *Invoice) (object, error) {
		return s.showInvoice(inv, req.expands("customer")), nil
	})
}

func (s *Server) listInvoiceLines(req *request, _ time.Time) (object, error) {
	return s.invoices.with(req, "invoice", func(inv *Invoice) (object, error) {
		return listRows(req, s.showLines(inv))
	})
}

func (s *Server) postFinalize(req *request, now time.Time) (object, error) {
	return s.invoices.with(req, "invoice", func(inv *Invoice) (object, error) {
		if inv.Status != "draft" {
			return nil, refused(http.StatusBadRequest, apiError{Type: invalidRequest, Code: "invoice_not_editable",
				Message: "This invoice is already finalized, you can't re-finalize a non-draft invoice."})
		}
		s.finalize(inv, now)
		return s.showInvoice(inv, req.expands("customer")), nil
	})
}

// showInvoice contains the first lines; all are at the invoice's lines.
func (s *Server) showInvoice(inv *Invoice, expanded bool) object {
	lines := s.showLines(inv)
	page := pageOf("/v1/invoices/"+inv.ID+"/lines", lines[:min(len(lines), defaultPageSize)], len(lines) > defaultPageSize)
	page["total_count"] = len(lines)
	total := int64(0)
	for _, line := range inv.Lines {
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

func (s *Server) showLines(inv *Invoice) []object {
	sub := s.subscriptions.must(inv.Subscription)
	rows := make([]object, len(inv.Lines))
	for i, line := range inv.Lines {
		rows[i] = object{"id": line.id, "object": "line_item", "livemode": s.options.Livemode, "invoice": inv.ID,
			"subscription": inv.Subscription, "subscription_item": line.ID, "type": "subscription",
			"quantity": line.Quantity, "amount": line.amount(), "currency": "usd", "proration": false,
			"period":   object{"start": line.PeriodStart.Unix(), "end": line.PeriodEnd.Unix()},
			"metadata": object{}, "price": s.showPrice(sub, line.Item)}
	}
	return rows
}

// amount is in cents, with half a cent rounded up.
func (line *Line) amount() int64 {
	unit, valid := new(big.Rat).SetString(line.UnitAmountDecimal)
	if !valid {
		return 0
	}
	twice := unit.Mul(unit, big.NewRat(2*line.Quantity, 1))
	twice.Add(twice, big.NewRat(1, 1))
	return new(big.Int).Div(twice.Num(), new(big.Int).Lsh(twice.Denom(), 1)).Int64()
}
