package stripetest

import (
	"math/big"
	"strconv"
)

// The shapes are those of API version 2023-10-16: a subscription has its period
// itself, and an item its price.

func (s *Server) showSubscription(sub *subscription, expanded bool) object {
	items := make([]object, len(sub.Items))
	for i, it := range sub.Items {
		items[i] = s.showItem(sub, it)
	}
	page := pageOf("/v1/subscription_items?subscription="+sub.ID, items, false)
	page["total_count"] = len(items)
	o := object{"id": sub.ID, "object": "subscription", "livemode": s.options.Livemode, "status": sub.Status,
		"customer": s.customerField(sub.Customer, expanded), "items": page, "metadata": orEmpty(sub.Metadata),
		"current_period_start": sub.Start.Unix(), "current_period_end": sub.End.Unix(),
		"billing_cycle_anchor": sub.Anchor.Unix(), "collection_method": "charge_automatically", "currency": "usd",
		"created": sub.Created.Unix(), "start_date": sub.Created.Unix(), "ended_at": unixOrNull(sub.EndedAt),
		"cancel_at": unixOrNull(sub.CancelAt), "cancel_at_period_end": sub.CancelAtPeriodEnd,
		"canceled_at": unixOrNull(sub.canceledAt), "trial_start": nil, "trial_end": unixOrNull(sub.TrialEnd),
		"latest_invoice": nil}
	if sub.TrialEnd != nil {
		o["trial_start"] = sub.Created.Unix()
	}
	if sub.latest != nil {
		o["latest_invoice"] = sub.latest.ID
	}
	return o
}

func (s *Server) showItem(sub *subscription, it Item) object {
	o := object{"id": it.ID, "object": "subscription_item", "subscription": sub.ID, "created": sub.Created.Unix(),
		"metadata": object{}, "price": s.showPrice(sub, it)}
	if !it.Metered {
		o["quantity"] = 1
	}
	return o
}

func (s *Server) showPrice(sub *subscription, it Item) object {
	recurring := object{"interval": sub.Interval, "interval_count": sub.IntervalCount,
		"usage_type": "licensed", "aggregate_usage": nil, "meter": nil}
	if it.Metered {
		recurring["usage_type"] = "metered"
	}
	if m := s.meterOf[it.Meter]; m != nil {
		recurring["meter"] = m.id
	} else if it.Metered {
		recurring["aggregate_usage"] = "sum"
	}
	o := object{"id": it.PriceID, "object": "price", "active": true, "livemode": s.options.Livemode,
		"billing_scheme": "per_unit", "created": sub.Created.Unix(), "currency": "usd", "metadata": object{},
		"product": "prod_" + it.PriceID, "recurring": recurring, "type": "recurring", "lookup_key": nil,
		"unit_amount": nil, "unit_amount_decimal": it.UnitAmountDecimal}
	if it.LookupKey != "" {
		o["lookup_key"] = it.LookupKey
	}
	if cents, err := strconv.ParseInt(it.UnitAmountDecimal, 10, 64); err == nil {
		o["unit_amount"] = cents
	}
	return o
}

// showInvoice carries the first lines; the rest is at the invoice's lines.
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
		"auto_advance": inv.Status == "draft" && !inv.stays, "metadata": object{}, "paid": false,
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
