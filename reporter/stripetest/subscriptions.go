package stripetest

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
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
}

type subscription struct {
	Subscription
	number     int
	plan       int // what the agenda holds of an older plan does not happen
	canceledAt *time.Time
	latest     *invoice
}

func (sub *subscription) key() string { return sub.ID }
func (sub *subscription) place() int  { return sub.number }

func (sub *subscription) cycle() cycle {
	return cycle{sub.Anchor, sub.Interval, sub.IntervalCount}
}

func (sub *subscription) ended() bool {
	return sub.Status == "canceled" || sub.Status == "incomplete_expired"
}

// CreateSubscription starts a subscription. What is left zero is set: active,
// monthly, created and starting now, anchored at its start or at the end of its
// trial, ids made from what is known. Its customer and meters must exist.
func (s *Server) CreateSubscription(given Subscription) {
	now := s.enter()
	defer s.mu.Unlock()
	c := s.mustCustomer(given.Customer)
	sub := &subscription{Subscription: cloned(given), number: len(s.subscriptions.all)}
	if sub.ID == "" {
		sub.ID = s.id("sub")
	}
	if _, exists := s.subscriptions.get(sub.ID); exists {
		panic("stripetest: subscription exists: " + sub.ID)
	}
	sub.setDefaults(now)
	s.subscriptions.add(sub)
	c.subscriptions = append(c.subscriptions, sub)
	s.takeItems(sub)
	s.schedule(sub, now)
	s.emit("customer.subscription.created", s.showSubscription(sub, false), now)
}

// UpdateSubscription changes a subscription as an operator would. It makes no
// invoice: there are no prorations here.
func (s *Server) UpdateSubscription(id string, change func(*Subscription)) {
	now := s.enter()
	defer s.mu.Unlock()
	sub := s.mustSubscription(id)
	changed := cloned(sub.Subscription)
	change(&changed)
	wasEnded := sub.ended()
	for _, it := range sub.Items {
		delete(s.items, it.ID)
	}
	sub.Subscription = cloned(changed)
	sub.setDefaults(now)
	s.takeItems(sub)
	s.schedule(sub, now)
	if sub.ended() && !wasEnded {
		s.end(sub, now)
		return
	}
	s.emit("customer.subscription.updated", s.showSubscription(sub, false), now)
}

// CancelSubscription cancels at once. The usage of the period so far is invoiced
// only with invoiceNow; otherwise it is never billed.
func (s *Server) CancelSubscription(id string, invoiceNow bool) {
	now := s.enter()
	defer s.mu.Unlock()
	sub := s.mustSubscription(id)
	if sub.ended() {
		return
	}
	if invoiceNow {
		s.issue(s.draft(sub, now, nil), now)
	}
	s.cancel(sub, now)
}

// Subscription is a subscription as it is now.
func (s *Server) Subscription(id string) (sub Subscription, ok bool) {
	s.enter()
	defer s.mu.Unlock()
	held, ok := s.subscriptions.get(id)
	if !ok {
		return Subscription{}, false
	}
	return cloned(held.Subscription), true
}

func (s *Server) mustSubscription(id string) *subscription {
	sub, ok := s.subscriptions.get(id)
	if !ok {
		panic("stripetest: no such subscription: " + id)
	}
	return sub
}

func (sub *subscription) setDefaults(now time.Time) {
	setIfZero(&sub.Interval, "month")
	setIfZero(&sub.IntervalCount, 1)
	setIfZero(&sub.Created, now)
	setIfZero(&sub.Start, now)
	setIfZero(&sub.Status, "active")
	sub.Start, sub.End, sub.Anchor, sub.Created = sub.Start.UTC(), sub.End.UTC(), sub.Anchor.UTC(), sub.Created.UTC()
	if sub.Status == "trialing" && sub.TrialEnd != nil {
		sub.End = sub.TrialEnd.UTC() // a trial is the period
		setIfZero(&sub.Anchor, sub.End)
	}
	setIfZero(&sub.Anchor, sub.Start)
	if !sub.End.After(sub.Start) {
		sub.End = sub.cycle().after(sub.Start)
	}
	if sub.Status == "trialing" && sub.TrialEnd == nil {
		end := sub.End
		sub.TrialEnd = &end
	}
	for i := range sub.Items {
		it := &sub.Items[i]
		setIfZero(&it.ID, fmt.Sprintf("si_%s_%d", sub.ID, i+1))
		setIfZero(&it.PriceID, "price_"+it.LookupKey+it.Meter)
		setIfZero(&it.UnitAmountDecimal, "0")
	}
}

func setIfZero[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

// takeItems lets the subscription's items be found by id.
func (s *Server) takeItems(sub *subscription) {
	for _, it := range sub.Items {
		if it.Meter != "" && s.meterOf[it.Meter] == nil {
			panic("stripetest: no such meter: " + it.Meter)
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
func (s *Server) listSubscriptions(req *request) answer {
	s.enter()
	defer s.mu.Unlock()
	among := s.subscriptions.all
	if id := req.get("customer"); id != "" {
		c := s.customers[id]
		if c == nil {
			return noSuch(http.StatusBadRequest, "customer", id, "customer")
		}
		among = c.subscriptions
	}
	status, expanded := req.get("status"), req.expands("customer")
	return list(req, &s.subscriptions, among,
		func(sub *subscription) bool { return sub.matches(status) },
		func(sub *subscription) object { return s.showSubscription(sub, expanded) })
}

func (sub *subscription) matches(status string) bool {
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

func (s *Server) getSubscription(req *request) answer {
	s.enter()
	defer s.mu.Unlock()
	sub, found := s.subscriptions.get(req.id)
	if !found {
		return noSuch(http.StatusNotFound, "subscription", req.id, "id")
	}
	return ok(s.showSubscription(sub, req.expands("customer")))
}
