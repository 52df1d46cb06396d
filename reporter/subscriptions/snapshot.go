package subscriptions

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stripe/stripe-go/v76"

	"odometer"
	"odometer/billing"
)

// querier is a pool, a connection or a transaction.
type querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// mapping says which customer and subscription a tenant has.
type mapping struct {
	Tenant                 uuid.UUID
	Customer, Subscription string
}

// snapshot is what we have stored about some subscriptions.
type snapshot struct {
	plans        map[string]bool
	mappings     []mapping
	tenants      map[uuid.UUID]*billing.Tenant
	openFindings map[string][]string // kinds of open findings by subscription
}

const plansSQL = `select plan_id from plans`

const mappingsSQL = `
select tenant_id as tenant, coalesce(stripe_customer, '') as customer, coalesce(stripe_subscription, '') as subscription
from subscriptions
where stripe_subscription = any($1)
   or stripe_customer = any($2)
order by tenant_id`

const openFindingsSQL = `
select subject, kind
from audit_findings
where resolved_at is null
  and kind = any($1)
  and subject = any($2)`

// load reads the snapshot for fetched subscriptions.
func load(ctx context.Context, q querier, subs ...*stripe.Subscription) (*snapshot, error) {
	tenants := []uuid.UUID{}
	ids, customers := make([]string, 0, len(subs)), make([]string, 0, len(subs))
	since := subs[0].CurrentPeriodStart
	for _, sub := range subs {
		ids = append(ids, sub.ID)
		if sub.Customer != nil {
			customers = append(customers, sub.Customer.ID)
		}
		if id, ok := odometer.ParseTenant(namedTenant(sub)); ok {
			tenants = append(tenants, id)
		}
		since = min(since, sub.CurrentPeriodStart)
	}
	snap := &snapshot{plans: map[string]bool{}, openFindings: map[string][]string{}}
	var plan, subject, kind string
	rows, _ := q.Query(ctx, plansSQL)
	_, err := pgx.ForEachRow(rows, []any{&plan}, func() error {
		snap.plans[plan] = true
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("load plans: %w", err)
	}
	rows, _ = q.Query(ctx, mappingsSQL, ids, customers)
	if snap.mappings, err = pgx.CollectRows(rows, pgx.RowToStructByName[mapping]); err != nil {
		return nil, fmt.Errorf("load tenants of %d subscriptions: %w", len(subs), err)
	}
	rows, _ = q.Query(ctx, openFindingsSQL, kinds, ids)
	_, err = pgx.ForEachRow(rows, []any{&subject, &kind}, func() error {
		snap.openFindings[subject] = append(snap.openFindings[subject], kind)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("load findings of %d subscriptions: %w", len(subs), err)
	}
	for _, m := range snap.mappings {
		tenants = append(tenants, m.Tenant)
	}
	snap.tenants, err = billing.LoadTenants(ctx, q, tenants, time.Unix(since, 0))
	return snap, err
}

// ownerOf returns the tenant that has the subscription.
func (snap *snapshot) ownerOf(subscription string) (uuid.UUID, bool) {
	for _, m := range snap.mappings {
		if m.Subscription == subscription {
			return m.Tenant, true
		}
	}
	return uuid.Nil, false
}

// tenantsOfCustomer returns the tenants that have the subscription's customer.
func (snap *snapshot) tenantsOfCustomer(sub *stripe.Subscription) (tenants []uuid.UUID) {
	for _, m := range snap.mappings {
		if sub.Customer != nil && sub.Customer.ID != "" && m.Customer == sub.Customer.ID {
			tenants = append(tenants, m.Tenant)
		}
	}
	return tenants
}

// namedTenant is the tenant that Stripe names: in the subscription's metadata,
// else in its customer's.
func namedTenant(sub *stripe.Subscription) string {
	if id := sub.Metadata["tenant_id"]; id != "" {
		return id
	}
	if sub.Customer != nil {
		return sub.Customer.Metadata["tenant_id"]
	}
	return ""
}

// subscriptionOf is the subscription as it would be stored after the change.
func subscriptionOf(stored *billing.Tenant, change billing.SubscriptionChange) odometer.Subscription {
	s := odometer.Subscription{
		Tenant: change.Tenant, PlanID: change.PlanID, Status: change.Status, Interval: change.Interval,
		Anchor: change.Interval.Anchor(change.Start, change.End), TrialEndsAt: change.TrialEndsAt,
		StripeCustomer: stored.Subscription.StripeCustomer, StripeSubscription: stored.Subscription.StripeSubscription,
	}
	if change.StripeCustomer != nil {
		s.StripeCustomer = *change.StripeCustomer
	}
	if change.StripeSubscription != nil {
		s.StripeSubscription = *change.StripeSubscription
	}
	for _, p := range stored.Periods { // as billing.Set keeps the anchor
		if p.Start.Equal(change.Start) && p.End.Equal(change.End) && stored.Subscription.Interval == change.Interval {
			s.Anchor = stored.Subscription.Anchor
		}
	}
	return s
}

// isStored reports whether applying the change would alter nothing but what the
// rollover does by itself.
func isStored(stored *billing.Tenant, change billing.SubscriptionChange, now time.Time) bool {
	is, want := stored.Subscription, subscriptionOf(stored, change)
	if is.PlanID != want.PlanID || is.Interval != want.Interval || is.StatusAt(now) != want.StatusAt(now) ||
		is.StripeCustomer != want.StripeCustomer || is.StripeSubscription != want.StripeSubscription ||
		!equalTimes(is.TrialEndsAt, want.TrialEndsAt) {
		return false
	}
	from := slices.IndexFunc(stored.Periods, func(p odometer.Period) bool { return p.End.After(change.Start) })
	if from < 0 {
		return false
	}
	periods := stored.Periods[from:]
	first := want.FirstPeriods(change.Start, change.End)
	wanted := slices.Concat(first, want.Roll(first[len(first)-1].End, rollUntil(periods, now)))
	if len(periods) < len(first) || len(periods) > len(wanted) {
		return false
	}
	for i, p := range periods {
		if !p.Start.Equal(wanted[i].Start) || !p.End.Equal(wanted[i].End) {
			return false
		}
		if p.End.After(now) && (p.PlanID != wanted[i].PlanID || live(change.Status) && p.Trial != wanted[i].Trial) {
			return false
		}
	}
	return true
}

// rollUntil is now, or the start of a period that was created for an event
// ahead of its time.
func rollUntil(periods []odometer.Period, now time.Time) time.Time {
	if last := periods[len(periods)-1].Start; last.After(now) && !last.After(now.Add(odometer.MaxAhead)) {
		return last
	}
	return now
}

// clipToOpen is the part of a change that can still be applied, when the change
// would alter a closed period or extend an ended one: those stay, and the
// change acts from their end on. A subscription that has ended by then ends the
// running period now. Without such a period the change is returned as it is.
func clipToOpen(stored *billing.Tenant, change billing.SubscriptionChange, now time.Time) billing.SubscriptionChange {
	want := subscriptionOf(stored, change)
	wanted := want.FirstPeriods(change.Start, change.End)
	wanted = append(wanted, want.Roll(wanted[len(wanted)-1].End, now)...)
	until, inTheWay := fixedUntil(stored.Periods, wanted, change.Start, now)
	if !inTheWay {
		return change
	}
	if !until.After(now) {
		change.Status = statusFrom(want, until, now)
	}
	for _, w := range wanted {
		if w.Contains(until) {
			change.Start, change.End = until, w.End
			return change
		}
	}
	last := stored.Periods[len(stored.Periods)-1]
	for _, p := range stored.Periods {
		if p.Contains(now) {
			last = p
			last.End = now.UTC().Truncate(time.Microsecond)
		}
	}
	change.Start, change.End = last.Start, last.End
	if !change.Start.Before(change.End) {
		change.End = change.Start.Add(time.Microsecond)
	}
	return change
}

// statusFrom is the status from a time on: a trial that was over by then is
// over.
func statusFrom(s odometer.Subscription, from, now time.Time) odometer.Status {
	if s.StatusAt(from) != s.Status {
		return s.StatusAt(now)
	}
	return s.Status
}

// fixedUntil is the end of the last period that conflicts with the wanted ones:
// closed with other bounds, or ended and to be extended. When all that is
// wanted is closed, every open period conflicts: its usage must stay somewhere.
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

func equalTimes(a, b *time.Time) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Equal(*b)
}
