package subscriptions

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/stripe/stripe-go/v76"

	"odometer"
	"odometer/billing"
)

// decision is what has to be done about a fetched subscription.
type decision struct {
	outcome  string // in words
	kind     string // of the finding that it is; "": none
	tenant   uuid.UUID
	replaces string                       // the tenant's subscription that it replaces, if that has ended at Stripe
	changes  []billing.SubscriptionChange // to be applied, in order
}

// decide compares a subscription with the snapshot. It is a pure function, so
// that the job can call it for a page at once and takes locks only where
// something differs.
func (snap *snapshot) decide(sub *stripe.Subscription, now time.Time) decision {
	change, err := changeOf(sub, snap.plans)
	owner, current := snap.ownerOf(sub.ID)
	ended := !isLive(sub)
	switch {
	case errors.Is(err, errIncomplete):
		return decision{outcome: fmt.Sprintf("incomplete: it is %s", sub.Status)}
	case ended && !current && sub.Status == stripe.SubscriptionStatusIncompleteExpired:
		return decision{outcome: "it has expired before it began"}
	case ended && !current && err != nil:
		return decision{outcome: "it has ended and was never ours"}
	case errors.Is(err, errNoPlan) && (!ended || !current):
		return snap.unknownPrice(sub, current)
	case errors.Is(err, errNoPeriod):
		return newFinding(KindZeroPeriod, owner, "subscription %s came with the period [%d, %d), which has no length: nothing was stored; check whether it was read with another API version than %s",
			sub.ID, sub.CurrentPeriodStart, sub.CurrentPeriodEnd, stripe.APIVersion)
	}
	tenant, d := snap.findTenant(sub, owner, current, ended)
	if d != nil {
		return *d
	}
	change.Tenant = tenant
	if change.PlanID == "" {
		change.PlanID = snap.tenants[tenant].Subscription.PlanID // it has ended and its price has left the catalogue
	}
	return snap.compareChange(change, current, ended, now)
}

// unknownPrice decides about a subscription to something that is not in the
// catalogue: another product, unless a tenant has nothing else.
func (snap *snapshot) unknownPrice(sub *stripe.Subscription, current bool) decision {
	tenants := snap.tenantsOfCustomer(sub)
	if id, ok := odometer.ParseTenant(namedTenant(sub)); ok {
		tenants = append(tenants, id)
	}
	if !current {
		for _, id := range tenants {
			if t := snap.tenants[id]; t != nil && t.Subscription.StripeSubscription != "" {
				return decision{outcome: "not ours: the tenant has another subscription, and this one no price of the catalogue"}
			}
		}
		if len(tenants) == 0 {
			return decision{outcome: "not ours"}
		}
	}
	d := newFinding(KindUnknownPrice, uuid.Nil, "subscription %s has the prices %s, and none is a plan of the catalogue: its tenant keeps what it has; add the price as a plan with: odometer catalogue apply -f FILE",
		sub.ID, pricesOf(sub))
	if len(tenants) > 0 {
		d.tenant = tenants[len(tenants)-1]
	}
	return d
}

// findTenant finds whose subscription it is, or a decision that ends the
// matter.
func (snap *snapshot) findTenant(sub *stripe.Subscription, owner uuid.UUID, current, ended bool) (uuid.UUID, *decision) {
	stated := namedTenant(sub)
	id, valid := odometer.ParseTenant(stated)
	mapped := snap.tenantsOfCustomer(sub)
	var d decision
	switch {
	case current && ended: // ours must end, whatever Stripe says now
		return owner, nil
	case sub.Customer != nil && sub.Customer.Deleted && !ended:
		d = newFinding(KindCustomerDeleted, owner, "customer %s of subscription %s was deleted in Stripe while the subscription is %s: cancel it in Stripe", sub.Customer.ID, sub.ID, sub.Status)
	case stated != "" && !valid:
		d = newFinding(KindBadTenantID, owner, "subscription %s or its customer has the metadata tenant_id %q, which is not a UUID in lower case: correct it in Stripe", sub.ID, stated)
	case current && stated != "" && id != owner:
		d = newFinding(KindTenantChanged, owner, "subscription %s is tenant %s's, but its metadata now says tenant_id %s: correct it in Stripe, or free it by setting the first tenant's subscription with: odometer subscription set --tenant %s --stripe-subscription '' (and what else it has)", sub.ID, owner, id, owner)
	case stated != "":
		return id, nil
	case current:
		return owner, nil
	case len(mapped) == 1:
		return mapped[0], nil
	case ended:
		d = decision{outcome: "it has ended and was never ours"}
	case len(mapped) > 1:
		d = newFinding(KindUnknownCustomer, uuid.Nil, "subscription %s: %d tenants have its customer %s: set its metadata tenant_id in Stripe", sub.ID, len(mapped), customerOf(sub))
	default:
		d = newFinding(KindUnknownCustomer, uuid.Nil, "no tenant has customer %s of subscription %s: set the customer's metadata tenant_id in Stripe, or map it with: odometer subscription set --tenant UUID --plan ID --status active --period-start T --period-end T --stripe-customer %s",
			customerOf(sub), sub.ID, customerOf(sub))
	}
	return uuid.Nil, &d
}

// compareChange decides what a change of a tenant's subscription alters.
func (snap *snapshot) compareChange(change billing.SubscriptionChange, current, ended bool, now time.Time) decision {
	stored := snap.tenants[change.Tenant]
	d := decision{tenant: change.Tenant}
	switch {
	case stored == nil && ended && change.End.Before(now.Add(-odometer.MaxAge)):
		d.outcome = "it ended so long ago that no event can belong to it any more"
		return d
	case stored == nil || current:
	case stored.Subscription.StripeSubscription == "":
		if ended {
			d.outcome = "it has ended, and the tenant's subscription was set by hand"
			return d
		}
	case ended && !isLater(stored, change):
		d.outcome = "it has ended, and the tenant has another one"
		return d
	default:
		d.replaces = stored.Subscription.StripeSubscription
	}
	if stored != nil && (isStored(stored, change, now) || isStored(stored, clipToOpen(stored, change, now), now)) {
		d.outcome = "as stored"
		return d
	}
	d.outcome = fmt.Sprintf("set: %s, plan %s, period [%s, %s)", change.Status, change.PlanID, change.Start.Format(time.RFC3339), change.End.Format(time.RFC3339))
	d.changes = withTrial(stored, change)
	return d
}

// isLater reports whether an ended subscription started after the stored one,
// which has ended too: the later one stands.
func isLater(stored *billing.Tenant, change billing.SubscriptionChange) bool {
	if live(stored.Subscription.Status) {
		return false
	}
	n := len(stored.Periods)
	return n == 0 || change.Start.After(stored.Periods[n-1].Start)
}

// withTrial applies the trial before its end when both are new: a canceled
// trial stays free only if it is known as a trial.
func withTrial(stored *billing.Tenant, change billing.SubscriptionChange) []billing.SubscriptionChange {
	if live(change.Status) || change.TrialEndsAt == nil || !change.TrialEndsAt.After(change.Start) {
		return []billing.SubscriptionChange{change}
	}
	contains := func(p odometer.Period) bool { return p.Contains(change.Start) }
	if stored != nil && slices.ContainsFunc(stored.Periods, contains) {
		return []billing.SubscriptionChange{change}
	}
	trial := change
	trial.Status, trial.Interval = odometer.Trial, odometer.Once
	return []billing.SubscriptionChange{trial, change}
}

var (
	errIncomplete = errors.New("the subscription is incomplete")
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

// isLive reports whether usage of the subscription will be invoiced, or is on
// trial.
func isLive(sub *stripe.Subscription) bool { return live(statuses[sub.Status]) }

func live(s odometer.Status) bool {
	return s == odometer.Trial || s == odometer.Active || s == odometer.PastDue
}

// changeOf translates a fetched subscription; the tenant is left open. With
// errNoPlan everything but the plan and the interval is set.
func changeOf(sub *stripe.Subscription, plans map[string]bool) (billing.SubscriptionChange, error) {
	status, known := statuses[sub.Status]
	if !known {
		return billing.SubscriptionChange{}, errIncomplete
	}
	change := billing.SubscriptionChange{Status: status, Interval: odometer.Once, StripeSubscription: &sub.ID}
	if sub.Customer != nil {
		change.StripeCustomer = &sub.Customer.ID
	}
	if sub.TrialEnd != 0 {
		change.TrialEndsAt = unixTime(sub.TrialEnd)
	}
	price := planPrice(sub, plans)
	if price != nil {
		change.PlanID, change.Interval = price.ID, intervalOf(price)
	}
	switch {
	case price == nil && sub.CurrentPeriodEnd <= sub.CurrentPeriodStart:
		return change, errors.Join(errNoPlan, errNoPeriod)
	case sub.CurrentPeriodStart <= 0 || sub.CurrentPeriodEnd <= sub.CurrentPeriodStart:
		return change, errNoPeriod
	}
	change.Start, change.End = *unixTime(sub.CurrentPeriodStart), *unixTime(sub.CurrentPeriodEnd)
	endEarly(&change, sub)
	if price == nil {
		return change, errNoPlan
	}
	return change, nil
}

// endEarly ends the period where the subscription ends.
func endEarly(change *billing.SubscriptionChange, sub *stripe.Subscription) {
	switch {
	case sub.Status == stripe.SubscriptionStatusPaused:
		endWithTrial(change, sub)
	case !live(change.Status):
		if at := cmp.Or(sub.EndedAt, sub.CanceledAt); at != 0 {
			endAt(change, at)
		}
	case sub.CancelAt != 0 && sub.CancelAt <= sub.CurrentPeriodEnd:
		endAt(change, sub.CancelAt)
		change.Interval = odometer.Once
	case sub.CancelAtPeriodEnd:
		change.Interval = odometer.Once
	}
}

// endWithTrial ends the period with the trial: Stripe pauses a subscription
// when its trial ends and nobody pays, so the trial is its last period.
func endWithTrial(change *billing.SubscriptionChange, sub *stripe.Subscription) {
	if sub.TrialEnd == 0 {
		return
	}
	if !change.Start.Before(*change.TrialEndsAt) && sub.TrialStart != 0 && sub.TrialStart < sub.TrialEnd {
		change.Start = *unixTime(sub.TrialStart)
	}
	endAt(change, sub.TrialEnd)
}

// endAt shortens the period to end then. A period that ends as it starts gets a
// length of a second, Stripe's smallest.
func endAt(change *billing.SubscriptionChange, at int64) {
	end := *unixTime(max(at, change.Start.Unix()+1))
	if end.Before(change.End) {
		change.End = end
	}
}

// planPrice is the price that makes the subscription one of our plans.
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

// intervalOf is the interval in which periods follow by themselves. We cannot
// roll every third month, say: then each period comes from Stripe.
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

func unixTime(seconds int64) *time.Time {
	t := time.Unix(seconds, 0).UTC()
	return &t
}

// Kinds of findings. The subject is the id of the subscription, or of the hook
// with KindMeterError and KindHookStuck.
const (
	KindUnknownPrice       = "unknown_price"
	KindZeroPeriod         = "zero_period"
	KindBadTenantID        = "bad_tenant_id"
	KindUnknownCustomer    = "unknown_customer"
	KindTenantChanged      = "tenant_changed"
	KindCustomerDeleted    = "customer_deleted"
	KindSecondSubscription = "second_subscription"
	KindRefused            = "subscription_refused"
	KindGone               = "subscription_gone"
	KindMeterError         = "stripe_meter_error"
	KindHookStuck          = "stripe_hook_stuck"
)

// kinds are those that are resolved when the subscription is right.
var kinds = []string{
	KindUnknownPrice, KindZeroPeriod, KindBadTenantID, KindUnknownCustomer, KindTenantChanged,
	KindCustomerDeleted, KindSecondSubscription, KindRefused, KindGone,
}

// Who records a finding: a hook, or the job.
const (
	byHook = "stripe hook"
	byJob  = "subscriptions"
)

func newFinding(kind string, tenant uuid.UUID, format string, args ...any) decision {
	return decision{kind: kind, tenant: tenant, outcome: fmt.Sprintf(format, args...)}
}

func pricesOf(sub *stripe.Subscription) string {
	var ids []string
	if sub.Items != nil {
		for _, item := range sub.Items.Data {
			if item.Price != nil {
				ids = append(ids, item.Price.ID)
			}
		}
	}
	if len(ids) == 0 {
		return "(none)"
	}
	return strings.Join(ids, ", ")
}

func customerOf(sub *stripe.Subscription) string {
	if sub.Customer == nil || sub.Customer.ID == "" {
		return "(none)"
	}
	return sub.Customer.ID
}
