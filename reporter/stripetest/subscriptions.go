package stripetest

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
)

// Item is a price within a subscription. A metered one is billed from the meter
// that it names, or from its own usage records when it names none.
type Item struct {
	ID, PriceID, LookupKey string
	Meter                  string // event name; "" for licensed and legacy prices
	Metered                bool
	UnitAmountDecimal      string // cents
}

// Subscription is what a customer pays for, and its current period.
type Subscription struct {
	ID, Customer, Status string
	Items                []Item
	Interval             string // default "month"
	IntervalCount        int64  // default 1
	Start, End           time.Time
	Anchor               time.Time
	TrialEnd, EndedAt    *time.Time
	CancelAt             *time.Time
	CancelAtPeriodEnd    bool
	Metadata             map[string]string
	Created              time.Time

	scheduleVersion int // timers of an older version do nothing
	canceledAt      *time.Time
	latest          *Invoice
}

func (sub *Subscription) key() string { return sub.ID }

func (sub *Subscription) cycle() cycle {
	return cycle{sub.Anchor, sub.Interval, sub.IntervalCount}
}

func (sub *Subscription) ended() bool {
	return sub.Status == "canceled" || sub.Status == "incomplete_expired"
}

// CreateSubscription starts a subscription. Zero fields get defaults: active,
// monthly, created and starting now, anchored at its start or at the end of its
// trial, ids derived from what is known. Its customer and meters must exist.
func (s *Server) CreateSubscription(given Subscription) {
	now := s.lockNow()
	defer s.mu.Unlock()
	c := s.customers.must(given.Customer)
	copied := cloned(given)
	sub := &copied
	sub.ID = cmp.Or(sub.ID, s.id("sub"))
	if s.subscriptions.of[sub.ID] != nil {
		panic("stripetest: subscription exists: " + sub.ID)
	}
	sub.setDefaults(now)
	s.subscriptions.add(sub)
	c.subscriptions = append(c.subscriptions, sub)
	s.indexItems(sub)
	s.schedule(sub, now)
	s.emit("customer.subscription.created", s.showSubscription(sub, false), now)
}

// UpdateSubscription changes a subscription as an operator would. It makes no
// invoice: there are no prorations here.
func (s *Server) UpdateSubscription(id string, change func(*Subscription)) {
	now := s.lockNow()
	defer s.mu.Unlock()
	sub := s.subscriptions.must(id)
	changed := cloned(*sub)
	change(&changed)
	wasEnded := sub.ended()
	for _, it := range sub.Items {
		delete(s.items, it.ID)
	}
	*sub = cloned(changed)
	sub.setDefaults(now)
	s.indexItems(sub)
	s.schedule(sub, now)
	if sub.ended() && !wasEnded {
		s.markEnded(sub, now)
		return
	}
	s.emit("customer.subscription.updated", s.showSubscription(sub, false), now)
}

// CancelSubscription cancels at once. The usage of the period so far is invoiced
// only with invoiceNow; otherwise it is never billed.
func (s *Server) CancelSubscription(id string, invoiceNow bool) {
	now := s.lockNow()
	defer s.mu.Unlock()
	sub := s.subscriptions.must(id)
	if sub.ended() {
		return
	}
	if invoiceNow {
		s.issue(s.draft(sub, now, nil), now)
	}
	s.cancel(sub, now)
}

// Subscription returns a subscription in its current state.
func (s *Server) Subscription(id string) (sub Subscription, ok bool) {
	s.lockNow()
	defer s.mu.Unlock()
	held, ok := s.subscriptions.of[id]
	if !ok {
		return Subscription{}, false
	}
	return cloned(*held), true
}

func (sub *Subscription) setDefaults(now time.Time) {
	sub.Interval = cmp.Or(sub.Interval, "month")
	sub.IntervalCount = cmp.Or(sub.IntervalCount, 1)
	sub.Created = cmp.Or(sub.Created, now)
	sub.Start = cmp.Or(sub.Start, now)
	sub.Status = cmp.Or(sub.Status, "active")
	sub.Start, sub.End, sub.Anchor, sub.Created = sub.Start.UTC(), sub.End.UTC(), sub.Anchor.UTC(), sub.Created.UTC()
	if sub.Status == "trialing" && sub.TrialEnd != nil {
		sub.End = sub.TrialEnd.UTC() // a trial is the period
		sub.Anchor = cmp.Or(sub.Anchor, sub.End)
	}
	sub.Anchor = cmp.Or(sub.Anchor, sub.Start)
	if !sub.End.After(sub.Start) {
		sub.End = sub.cycle().after(sub.Start)
	}
	if sub.Status == "trialing" && sub.TrialEnd == nil {
		end := sub.End
		sub.TrialEnd = &end
	}
	for i := range sub.Items {
		it := &sub.Items[i]
		it.ID = cmp.Or(it.ID, fmt.Sprintf("si_%s_%d", sub.ID, i+1))
		it.PriceID = cmp.Or(it.PriceID, "price_"+it.LookupKey+it.Meter)
		it.UnitAmountDecimal = cmp.Or(it.UnitAmountDecimal, "0")
	}
}

// indexItems makes the subscription's items known by id.
func (s *Server) indexItems(sub *Subscription) {
	for _, it := range sub.Items {
		if it.Meter != "" {
			s.meters.must(meterID(it.Meter))
		}
		s.items[it.ID] = sub
	}
}

// cloned shares nothing with the original.
func cloned(sub Subscription) Subscription {
	sub.Items = slices.Clone(sub.Items)
	sub.Metadata = maps.Clone(sub.Metadata)
	for _, t := range []**time.Time{&sub.TrialEnd, &sub.EndedAt, &sub.CancelAt} {
		if *t != nil {
			copied := (*t).UTC()
			*t = &copied
		}
	}
	return sub
}

// listSubscriptions leaves out canceled ones unless they are asked for.
func (s *Server) listSubscriptions(req *request, _ time.Time) (object, error) {
	c, err := s.customers.named(req)
	if err != nil {
		return nil, err
	}
	among := s.subscriptions.all
	if c != nil {
		among = c.subscriptions
	}
	status, expanded := req.get("status"), req.expands("customer")
	return list(req, slices.Backward(among),
		func(sub *Subscription) bool { return sub.matches(status) },
		func(sub *Subscription) object { return s.showSubscription(sub, expanded) })
}

func (sub *Subscription) matches(status string) bool {
	switch status {
	case "all":
		return true
	case "":
		return sub.Status != "canceled"
	case "ended":
		return sub.ended()
	}
	return sub.Status == status
}

func (s *Server) getSubscription(req *request, _ time.Time) (object, error) {
	return s.subscriptions.with(req, "id", func(sub *Subscription) (object, error) {
		return s.showSubscription(sub, req.expands("customer")), nil
	})
}

type customer struct {
	id            string
	metadata      map[string]string
	created       time.Time
	deleted       bool
	subscriptions []*Subscription
	invoices      []*Invoice
}

func (c *customer) key() string { return c.id }

// CreateCustomer makes a customer, or gives an existing one new metadata and
// undoes its deletion.
func (s *Server) CreateCustomer(id string, metadata map[string]string) {
	now := s.lockNow()
	defer s.mu.Unlock()
	c := s.customers.of[id]
	if c == nil {
		c = &customer{id: id, created: now}
		s.customers.add(c)
	}
	c.metadata, c.deleted = maps.Clone(metadata), false
}

// DeleteCustomer deletes a customer and cancels its subscriptions at once,
// without invoicing their usage.
func (s *Server) DeleteCustomer(id string) {
	now := s.lockNow()
	defer s.mu.Unlock()
	c := s.customers.must(id)
	c.deleted = true
	for _, sub := range c.subscriptions {
		if !sub.ended() {
			s.cancel(sub, now)
		}
	}
	s.emit("customer.deleted", s.showCustomer(c), now)
}

func (s *Server) getCustomer(req *request, _ time.Time) (object, error) {
	return s.customers.with(req, "id", func(c *customer) (object, error) {
		if c.deleted {
			return object{"id": c.id, "object": "customer", "deleted": true}, nil
		}
		return s.showCustomer(c), nil
	})
}

func (s *Server) showCustomer(c *customer) object {
	return object{"id": c.id, "object": "customer", "created": c.created.Unix(), "livemode": s.options.Livemode,
		"metadata": orEmpty(c.metadata), "currency": "usd", "balance": 0, "delinquent": false}
}

// customerField is a customer as a field of another object: its id, or all of
// it when the request expands it.
func (s *Server) customerField(id string, expanded bool) any {
	if c := s.customers.of[id]; c != nil && expanded {
		return s.showCustomer(c)
	}
	return id
}

func orEmpty(metadata map[string]string) map[string]string {
	if metadata == nil {
		return map[string]string{}
	}
	return metadata
}

// The JSON is that of API version 2023-10-16: a subscription has its period
// itself, and an item its price.

func (s *Server) showSubscription(sub *Subscription, expanded bool) object {
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

func (s *Server) showItem(sub *Subscription, it Item) object {
	o := object{"id": it.ID, "object": "subscription_item", "subscription": sub.ID, "created": sub.Created.Unix(),
		"metadata": object{}, "price": s.showPrice(sub, it)}
	if !it.Metered {
		o["quantity"] = 1
	}
	return o
}

func (s *Server) showPrice(sub *Subscription, it Item) object {
	recurring := object{"interval": sub.Interval, "interval_count": sub.IntervalCount,
		"usage_type": "licensed", "aggregate_usage": nil, "meter": nil}
	if it.Metered {
		recurring["usage_type"] = "metered"
	}
	if m := s.meters.of[meterID(it.Meter)]; m != nil {
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
