package stripetest

import "time"

// upcomingLead is how long before the end of a period invoice.upcoming comes;
// a shorter period has none, as in Stripe.
const upcomingLead = 72 * time.Hour

// schedule puts on the agenda what the subscription's period will bring, and
// makes void what was there before.
func (s *Server) schedule(sub *subscription, now time.Time) {
	sub.plan++
	if !sub.rolls() {
		return
	}
	plan := sub.plan
	planned := func(happens func(*subscription, time.Time)) func(time.Time) {
		return func(at time.Time) {
			if sub.plan == plan {
				happens(sub, at)
			}
		}
	}
	upcoming := sub.End.Add(-upcomingLead)
	if upcoming.After(now) && !upcoming.Before(sub.Start) {
		s.agenda.at(upcoming, planned(s.announce))
	}
	s.agenda.at(sub.turnsAt(), planned(s.turn))
}

// rolls tells whether periods follow each other in this status. One that is past
// due is billed on, and so is an unpaid one, whose invoices stay drafts.
func (sub *subscription) rolls() bool {
	switch sub.Status {
	case "active", "trialing", "past_due", "unpaid":
		return true
	}
	return false
}

// turnsAt is the end of the period, or the cancellation within it.
func (sub *subscription) turnsAt() time.Time {
	if sub.CancelAt != nil && sub.CancelAt.Before(sub.End) {
		return *sub.CancelAt
	}
	return sub.End
}

func (sub *subscription) endsAt(t time.Time) bool {
	return sub.CancelAt != nil && !sub.CancelAt.After(t) ||
		sub.CancelAtPeriodEnd && !sub.End.After(t)
}

// announce sends invoice.upcoming: a preview, which has no id.
func (s *Server) announce(sub *subscription, at time.Time) {
	preview := s.showInvoice(s.draft(sub, sub.End, sub.next(sub.End)), false)
	delete(preview, "id")
	s.emit("invoice.upcoming", preview, at)
}

// turn ends a period: its usage is drafted, and the next period begins unless
// the subscription was to end here.
func (s *Server) turn(sub *subscription, at time.Time) {
	next := sub.next(at)
	s.issue(s.draft(sub, at, next), at)
	if next == nil {
		s.cancel(sub, at)
		return
	}
	if sub.Status == "trialing" {
		sub.Status = "active"
	}
	sub.Start, sub.End = next.start, next.end
	s.schedule(sub, at)
	s.emit("customer.subscription.updated", s.showSubscription(sub, false), at)
}

// period is the time from start until before end.
type period struct{ start, end time.Time }

// next is the period that begins at a time; nil when the subscription ends then.
func (sub *subscription) next(at time.Time) *period {
	if sub.endsAt(at) {
		return nil
	}
	return &period{at, sub.cycle().after(at)}
}

func (s *Server) cancel(sub *subscription, at time.Time) {
	sub.Status = "canceled"
	s.schedule(sub, at)
	s.end(sub, at)
}

// end marks a subscription that was canceled. Its period keeps the bounds that
// it had.
func (s *Server) end(sub *subscription, at time.Time) {
	if sub.EndedAt == nil {
		sub.EndedAt = &at
	}
	sub.canceledAt = sub.EndedAt
	s.emit("customer.subscription.deleted", s.showSubscription(sub, false), at)
}
