package subscriptions

import (
	"slices"
	"time"

	"odometer"
	"odometer/billing"
)

// subscriptionOf is the subscription that an agreement would be stored as.
func subscriptionOf(stored *billing.Tenant, a billing.SubscriptionChange) odometer.Subscription {
	s := odometer.Subscription{
		Tenant: a.Tenant, PlanID: a.PlanID, Status: a.Status, Interval: a.Interval,
		Anchor: a.Interval.Anchor(a.Start, a.End), TrialEndsAt: a.TrialEndsAt,
		StripeCustomer: stored.Subscription.StripeCustomer, StripeSubscription: stored.Subscription.StripeSubscription,
	}
	if a.StripeCustomer != nil {
		s.StripeCustomer = *a.StripeCustomer
	}
	if a.StripeSubscription != nil {
		s.StripeSubscription = *a.StripeSubscription
	}
	for _, p := range stored.Periods { // as billing.Set keeps the grid
		if p.Start.Equal(a.Start) && p.End.Equal(a.End) && stored.Subscription.Interval == a.Interval {
			s.Anchor = stored.Subscription.Anchor
		}
	}
	return s
}

// asStored reports that bringing the agreement in would change nothing but
// what the rollover does by itself.
func asStored(stored *billing.Tenant, a billing.SubscriptionChange, now time.Time) bool {
	is, want := stored.Subscription, subscriptionOf(stored, a)
	if is.PlanID != want.PlanID || is.Interval != want.Interval || is.StatusAt(now) != want.StatusAt(now) ||
		is.StripeCustomer != want.StripeCustomer || is.StripeSubscription != want.StripeSubscription ||
		!sameTime(is.TrialEndsAt, want.TrialEndsAt) {
		return false
	}
	from := slices.IndexFunc(stored.Periods, func(p odometer.Period) bool { return p.End.After(a.Start) })
	if from < 0 {
		return false
	}
	periods := stored.Periods[from:]
	laid := want.FirstPeriods(a.Start, a.End)
	wanted := append(laid, want.Roll(laid[len(laid)-1].End, ahead(periods, now))...)
	if len(periods) < len(laid) || len(periods) > len(wanted) {
		return false
	}
	for i, p := range periods {
		if !p.Start.Equal(wanted[i].Start) || !p.End.Equal(wanted[i].End) {
			return false
		}
		if p.End.After(now) && (p.PlanID != wanted[i].PlanID || live(a.Status) && p.Trial != wanted[i].Trial) {
			return false
		}
	}
	return true
}

// ahead is now, or the start of a period that an event ahead of its time has
// had laid.
func ahead(periods []odometer.Period, now time.Time) time.Time {
	if last := periods[len(periods)-1].Start; last.After(now) && !last.After(now.Add(odometer.MaxAhead)) {
		return last
	}
	return now
}

// clip is what can still be done of an agreement that would change a closed
// period or make one longer that has ended: those stay as they are, and it
// acts from their end on. A subscription that has ended by then ends the
// running period now. Nothing is clipped where nothing is in the way.
func clip(stored *billing.Tenant, a billing.SubscriptionChange, now time.Time) billing.SubscriptionChange {
	want := subscriptionOf(stored, a)
	wanted := want.FirstPeriods(a.Start, a.End)
	wanted = append(wanted, want.Roll(wanted[len(wanted)-1].End, now)...)
	until, inTheWay := fixedUntil(stored.Periods, wanted, a.Start, now)
	if !inTheWay {
		return a
	}
	if until.Before(now) || until.Equal(now) {
		a.Status = statusFrom(want, until, now)
	}
	for _, w := range wanted {
		if w.Contains(until) {
			a.Start, a.End = until, w.End
			return a
		}
	}
	last := stored.Periods[len(stored.Periods)-1]
	for _, p := range stored.Periods {
		if p.Contains(now) {
			last = p
			last.End = now.UTC().Truncate(time.Microsecond)
		}
	}
	a.Start, a.End = last.Start, last.End
	if !a.Start.Before(a.End) {
		a.End = a.Start.Add(time.Microsecond)
	}
	return a
}

// statusFrom is the status from a time on: a trial that was over by then is over.
func statusFrom(s odometer.Subscription, from, now time.Time) odometer.Status {
	if s.StatusAt(from) != s.Status {
		return s.StatusAt(now)
	}
	return s.Status
}

// fixedUntil is the end of the last period that is in the way of the wanted
// ones: closed with other bounds, or ended and to become longer. So is every
// open one when all that is wanted is closed: its usage must stay somewhere.
func fixedUntil(periods, wanted []odometer.Period, start, now time.Time) (until time.Time, found bool) {
	remain := len(wanted)
	open := false
	for _, p := range periods {
		if !p.End.After(start) {
			continue
		}
		i := slices.IndexFunc(wanted, func(w odometer.Period) bool { return w.Start.Equal(p.Start) })
		fits := i >= 0 && wanted[i].End.Equal(p.End)
		switch {
		case p.ClosedAt != nil && fits:
			remain--
		case p.ClosedAt != nil:
			until, found = p.End, true
		case !p.End.After(now) && !p.Start.Before(start) && (i < 0 || wanted[i].End.After(p.End)):
			until, found = p.End, true
		default:
			open = true
		}
	}
	if !found && remain == 0 && open {
		return wanted[len(wanted)-1].End, true
	}
	return until, found
}

func sameTime(a, b *time.Time) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Equal(*b)
}
