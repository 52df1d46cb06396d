package subscriptions

import (
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/stripe/stripe-go/v76"

	"odometer"
	"odometer/billing"
)

// verdict is what is to be done about a fetched subscription.
type verdict struct {
	outcome string // in words
	kind    string // of the finding that it is; "": none
	tenant  uuid.UUID
	rival   string                       // the tenant's subscription by our books: only if it has ended
	set     []billing.SubscriptionChange // what to bring into the books, in order
}

// judge compares a subscription with the books. It is a pure function, so that
// the job may ask it about a page at once and the lock is taken only where
// something differs.
func (b *books) judge(sub *stripe.Subscription, now time.Time) verdict {
	a, err := agreementOf(sub, b.plans)
	owner, current := b.owner(sub.ID)
	over := !isLive(sub)
	switch {
	case errors.Is(err, errNothingYet):
		return verdict{outcome: fmt.Sprintf("nothing is agreed yet: it is %s", sub.Status)}
	case over && !current && sub.Status == stripe.SubscriptionStatusIncompleteExpired:
		return verdict{outcome: "it has expired before it began"}
	case over && !current && err != nil:
		return verdict{outcome: "it has ended and was never ours"}
	case errors.Is(err, errNoPlan) && !(over && current):
		return b.unknownPrice(sub, current)
	case errors.Is(err, errNoPeriod):
		return finding(KindZeroPeriod, owner, "subscription %s came with the period [%d, %d), which has no length: nothing was stored; look whether it was read by another API version than %s",
			sub.ID, sub.CurrentPeriodStart, sub.CurrentPeriodEnd, stripe.APIVersion)
	}
	tenant, v := b.tenant(sub, owner, current, over)
	if v != nil {
		return *v
	}
	a.Tenant = tenant
	if a.PlanID == "" {
		a.PlanID = b.tenants[tenant].Subscription.PlanID // an ended one whose price left the catalogue
	}
	return b.compare(a, current, over, now)
}

// unknownPrice is the verdict on a subscription to something that is not in
// the catalogue: another product, unless a tenant has nothing else.
func (b *books) unknownPrice(sub *stripe.Subscription, current bool) verdict {
	tenants := b.mapped(sub)
	if id, ok := odometer.ParseTenant(statedTenant(sub)); ok {
		tenants = append(tenants, id)
	}
	if !current {
		for _, id := range tenants {
			if t := b.tenants[id]; t != nil && t.Subscription.StripeSubscription != "" {
				return verdict{outcome: "not ours: the tenant has another subscription, and this one no price of the catalogue"}
			}
		}
		if len(tenants) == 0 {
			return verdict{outcome: "not ours"}
		}
	}
	v := finding(KindUnknownPrice, uuid.Nil, "subscription %s has the prices %s, and none is a plan of the catalogue: its tenant keeps what it has; add the price as a plan with: odometer catalogue apply -f FILE",
		sub.ID, pricesOf(sub))
	if len(tenants) > 0 {
		v.tenant = tenants[len(tenants)-1]
	}
	return v
}

// tenant finds whose subscription it is, or a verdict that ends the matter.
func (b *books) tenant(sub *stripe.Subscription, owner uuid.UUID, current, over bool) (uuid.UUID, *verdict) {
	stated := statedTenant(sub)
	id, valid := odometer.ParseTenant(stated)
	mapped := b.mapped(sub)
	var v verdict
	switch {
	case current && over: // what it was must end, whatever it says now
		return owner, nil
	case sub.Customer != nil && sub.Customer.Deleted && !over:
		v = finding(KindCustomerDeleted, owner, "customer %s of subscription %s was deleted in Stripe while the subscription is %s: cancel it in Stripe", sub.Customer.ID, sub.ID, sub.Status)
	case stated != "" && !valid:
		v = finding(KindBadTenantID, owner, "subscription %s or its customer has the metadata tenant_id %q, which is not a UUID in lower case: correct it in Stripe", sub.ID, stated)
	case current && stated != "" && id != owner:
		v = finding(KindTenantChanged, owner, "subscription %s is tenant %s's, but its metadata now says tenant_id %s: correct it in Stripe, or free it by setting the first tenant's subscription with: odometer subscription set --tenant %s --stripe-subscription '' (and what else it has)", sub.ID, owner, id, owner)
	case stated != "":
		return id, nil
	case current:
		return owner, nil
	case len(mapped) == 1:
		return mapped[0], nil
	case over:
		v = verdict{outcome: "it has ended and was never ours"}
	case len(mapped) > 1:
		v = finding(KindUnknownCustomer, uuid.Nil, "subscription %s: %d tenants have its customer %s: set its metadata tenant_id in Stripe", sub.ID, len(mapped), customerOf(sub))
	default:
		v = finding(KindUnknownCustomer, uuid.Nil, "no tenant has customer %s of subscription %s: set the customer's metadata tenant_id in Stripe, or map it with: odometer subscription set --tenant UUID --plan ID --status active --period-start T --period-end T --stripe-customer %s",
			customerOf(sub), sub.ID, customerOf(sub))
	}
	return uuid.Nil, &v
}

// compare says what an agreement changes.
func (b *books) compare(a billing.SubscriptionChange, current, over bool, now time.Time) verdict {
	stored := b.tenants[a.Tenant]
	v := verdict{tenant: a.Tenant}
	switch {
	case stored == nil && over && a.End.Before(now.Add(-odometer.MaxAge)):
		v.outcome = "it ended so long ago that no event can belong to it any more"
		return v
	case stored == nil || current:
	case stored.Subscription.StripeSubscription == "":
		if over {
			v.outcome = "it has ended, and the tenant's subscription was set by hand"
			return v
		}
	case over && !succeeds(stored, a):
		v.outcome = "it has ended, and the tenant has another one"
		return v
	default:
		v.rival = stored.Subscription.StripeSubscription
	}
	if stored != nil && (asStored(stored, a, now) || asStored(stored, clip(stored, a, now), now)) {
		v.outcome = "as stored"
		return v
	}
	v.outcome = fmt.Sprintf("set: %s, plan %s, period [%s, %s)", a.Status, a.PlanID, a.Start.Format(time.RFC3339), a.End.Format(time.RFC3339))
	v.set = withTrial(stored, a)
	return v
}

// succeeds reports whether an ended subscription came after the one in the
// books, which has ended too: whoever was told of both in time has the later.
func succeeds(stored *billing.Tenant, a billing.SubscriptionChange) bool {
	if live(stored.Subscription.Status) {
		return false
	}
	n := len(stored.Periods)
	return n == 0 || a.Start.After(stored.Periods[n-1].Start)
}

// withTrial puts the trial before its end when both are news: a canceled trial
// stays free only if it is known as a trial.
func withTrial(stored *billing.Tenant, a billing.SubscriptionChange) []billing.SubscriptionChange {
	if live(a.Status) || a.TrialEndsAt == nil || !a.TrialEndsAt.After(a.Start) {
		return []billing.SubscriptionChange{a}
	}
	if stored != nil {
		for _, p := range stored.Periods {
			if p.Contains(a.Start) {
				return []billing.SubscriptionChange{a}
			}
		}
	}
	trial := a
	trial.Status, trial.Interval = odometer.Trial, odometer.Once
	return []billing.SubscriptionChange{trial, a}
}
