package subscriptions

import (
	"errors"
	"time"

	"github.com/stripe/stripe-go/v76"

	"odometer"
	"odometer/billing"
)

var (
	errNothingYet = errors.New("nothing is agreed yet")
	errNoPlan     = errors.New("none of its prices is a plan of the catalogue")
	errNoPeriod   = errors.New("its period has no length")
)

var statuses = map[stripe.SubscriptionStatus]odometer.Status{
	stripe.SubscriptionStatusTrialing:          odometer.Trial,
	stripe.SubscriptionStatusActive:            odometer.Active,
	stripe.SubscriptionStatusPastDue:           odometer.PastDue,
	stripe.SubscriptionStatusUnpaid:            odometer.PastDue,
	stripe.SubscriptionStatusCanceled:          odometer.Canceled,
	stripe.SubscriptionStatusPaused:            odometer.Expired,
	stripe.SubscriptionStatusIncompleteExpired: odometer.Expired,
}

// isLive reports whether usage of the subscription will be invoiced, or is on trial.
func isLive(sub *stripe.Subscription) bool { return live(statuses[sub.Status]) }

func live(s odometer.Status) bool {
	return s == odometer.Trial || s == odometer.Active || s == odometer.PastDue
}

// agreementOf says what a fetched subscription means to us; the tenant is left
// open. With errNoPlan everything but the plan and the interval is there.
func agreementOf(sub *stripe.Subscription, plans map[string]bool) (billing.SubscriptionChange, error) {
	status, known := statuses[sub.Status]
	if !known {
		return billing.SubscriptionChange{}, errNothingYet
	}
	a := billing.SubscriptionChange{Status: status, Interval: odometer.Once, StripeSubscription: &sub.ID}
	if sub.Customer != nil {
		a.StripeCustomer = &sub.Customer.ID
	}
	if sub.TrialEnd != 0 {
		a.TrialEndsAt = moment(sub.TrialEnd)
	}
	price := planPrice(sub, plans)
	if price != nil {
		a.PlanID, a.Interval = price.ID, intervalOf(price)
	}
	switch {
	case price == nil && sub.CurrentPeriodEnd <= sub.CurrentPeriodStart:
		return a, errors.Join(errNoPlan, errNoPeriod)
	case sub.CurrentPeriodStart <= 0 || sub.CurrentPeriodEnd <= sub.CurrentPeriodStart:
		return a, errNoPeriod
	}
	a.Start, a.End = *moment(sub.CurrentPeriodStart), *moment(sub.CurrentPeriodEnd)
	endEarly(&a, sub)
	if price == nil {
		return a, errNoPlan
	}
	return a, nil
}

// endEarly lets the period end where the subscription does.
func endEarly(a *billing.SubscriptionChange, sub *stripe.Subscription) {
	switch {
	case sub.Status == stripe.SubscriptionStatusPaused:
		endWithTrial(a, sub)
	case !live(a.Status):
		if sub.EndedAt != 0 {
			endAt(a, sub.EndedAt)
		} else if sub.CanceledAt != 0 {
			endAt(a, sub.CanceledAt)
		}
	case sub.CancelAt != 0 && sub.CancelAt <= sub.CurrentPeriodEnd:
		endAt(a, sub.CancelAt)
		a.Interval = odometer.Once
	case sub.CancelAtPeriodEnd:
		a.Interval = odometer.Once
	}
}

// endWithTrial: Stripe pauses a subscription when its trial ends and nobody
// pays, so the trial is its last period.
func endWithTrial(a *billing.SubscriptionChange, sub *stripe.Subscription) {
	if sub.TrialEnd == 0 {
		return
	}
	if !a.Start.Before(*a.TrialEndsAt) && sub.TrialStart != 0 && sub.TrialStart < sub.TrialEnd {
		a.Start = *moment(sub.TrialStart)
	}
	endAt(a, sub.TrialEnd)
}

// endAt shortens the period to end then. One that ends as it begins still has
// a length: a second, Stripe's smallest.
func endAt(a *billing.SubscriptionChange, at int64) {
	end := *moment(max(at, a.Start.Unix()+1))
	if end.Before(a.End) {
		a.End = end
	}
}

// planPrice is the price by which the subscription has one of our plans.
func planPrice(sub *stripe.Subscription, plans map[string]bool) *stripe.Price {
	if sub.Items == nil {
		return nil
	}
	for _, item := range sub.Items.Data {
		if item.Price != nil && !item.Deleted && plans[item.Price.ID] {
			return item.Price
		}
	}
	return nil
}

// intervalOf is what follows a period by itself. Every third month, say, we
// cannot roll: each period comes from Stripe.
func intervalOf(p *stripe.Price) odometer.Interval {
	if p.Recurring == nil || p.Recurring.IntervalCount > 1 {
		return odometer.Once
	}
	interval, err := odometer.ParseInterval(string(p.Recurring.Interval))
	if err != nil {
		return odometer.Once
	}
	return interval
}

func moment(seconds int64) *time.Time {
	t := time.Unix(seconds, 0).UTC()
	return &t
}
