package subscriptions

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stripe/stripe-go/v76"

	"odometer/audit/findings"
	"odometer/billing"
)

// settled is what came of looking at a subscription.
type settled struct {
	outcome  string
	customer string
	changed  bool
	found    bool   // a finding stands
	over     *ended // the tenant's subscription has ended by this
}

// ended names a subscription that has just ended.
type ended struct{ subscription, customer string }

const lockSQL = `select pg_advisory_xact_lock(hashtextextended($1, 0))`

// lock waits until no other transaction holds the name.
func lock(ctx context.Context, tx pgx.Tx, name string) error {
	if _, err := tx.Exec(ctx, lockSQL, "odometer/"+name); err != nil {
		return fmt.Errorf("lock %s: %w", name, err)
	}
	return nil
}

// settle fetches a subscription and brings it into the books, or records why
// not. The transaction holds the locks, first the subscription's, then the
// tenant's: what is fetched under the first cannot be overtaken, and what is
// read under the second cannot change.
func (s *Sync) settle(ctx context.Context, tx pgx.Tx, id, by string) (settled, error) {
	if err := lock(ctx, tx, "stripe subscription "+id); err != nil {
		return settled{}, err
	}
	sub, err := s.fetch(ctx, id)
	if isGone(err) {
		return s.gone(ctx, tx, id, by)
	}
	if err != nil {
		return settled{}, err
	}
	now := s.now()
	b, err := load(ctx, tx, sub)
	if err != nil {
		return settled{}, err
	}
	v := b.judge(sub, now)
	if len(v.set) > 0 {
		if v, err = s.bring(ctx, tx, sub, v.tenant, now); err != nil {
			return settled{}, err
		}
	}
	if err := s.conclude(ctx, tx, id, by, v, b.open[id]); err != nil {
		return settled{}, err
	}
	done := settled{outcome: v.outcome, changed: len(v.set) > 0, found: v.kind != ""}
	if v.kind != "" {
		done.outcome = "finding " + v.kind
	}
	if sub.Customer != nil {
		done.customer = sub.Customer.ID
	}
	if done.changed && !isLive(sub) && done.customer != "" {
		done.over = &ended{id, done.customer}
	}
	return done, nil
}

// bring brings a subscription into the books of its tenant. The verdict it
// returns is the last one.
func (s *Sync) bring(ctx context.Context, tx pgx.Tx, sub *stripe.Subscription, tenant uuid.UUID, now time.Time) (verdict, error) {
	if err := lock(ctx, tx, "tenant "+tenant.String()); err != nil {
		return verdict{}, err
	}
	b, err := load(ctx, tx, sub)
	if err != nil {
		return verdict{}, err
	}
	v := b.judge(sub, now)
	if len(v.set) == 0 {
		return v, nil
	}
	if v.tenant != tenant {
		return verdict{}, fmt.Errorf("subscription %s was given from tenant %s to %s meanwhile", sub.ID, tenant, v.tenant)
	}
	if v.rival != "" {
		stands, err := s.stands(ctx, v.rival)
		if err != nil {
			return verdict{}, err
		}
		if stands {
			return finding(KindSecondSubscription, tenant, "tenant %s has subscription %s, which is live, and now %s too: only the first one counts; cancel one of them in Stripe", tenant, v.rival, sub.ID), nil
		}
	}
	for _, a := range v.set {
		err := s.set(ctx, a, now)
		if errors.Is(err, billing.ErrRefused) {
			return finding(KindRefused, tenant, "subscription %s: %s", sub.ID, err), nil
		}
		if err != nil {
			return verdict{}, err
		}
	}
	return v, nil
}

// set makes the agreement the tenant's, or what can still be done of it.
func (s *Sync) set(ctx context.Context, a billing.SubscriptionChange, now time.Time) error {
	_, err := billing.Set(ctx, s.pool, a, now)
	if !errors.Is(err, billing.ErrRefused) {
		return err
	}
	late, changed, failed := s.clipped(ctx, a, now)
	if failed != nil {
		return failed
	}
	if !changed {
		return err
	}
	if _, err := billing.Set(ctx, s.pool, late, now); err != nil {
		return err
	}
	s.log.Warn("a change came after its period had ended", "tenant", a.Tenant, "subscription", *a.StripeSubscription,
		"stated_from", a.Start, "stated_to", a.End, "acts_from", late.Start, "acts_to", late.End)
	return nil
}

// clipped is what can still be done of an agreement that was refused, by the
// periods as they are once what is due was laid.
func (s *Sync) clipped(ctx context.Context, a billing.SubscriptionChange, now time.Time) (late billing.SubscriptionChange, changed bool, err error) {
	if err := billing.RollOver(ctx, s.pool, []uuid.UUID{a.Tenant}, now, now); err != nil {
		return a, false, fmt.Errorf("roll over tenant %s: %w", a.Tenant, err)
	}
	stored, err := billing.Load(ctx, s.pool, a.Tenant)
	switch {
	case errors.Is(err, billing.ErrNoSubscription):
		return a, false, nil
	case err != nil:
		return a, false, err
	}
	late = clip(stored, a, now)
	return late, !late.Start.Equal(a.Start) || !late.End.Equal(a.End), nil
}

// stands reports whether a subscription is live at Stripe.
func (s *Sync) stands(ctx context.Context, id string) (bool, error) {
	sub, err := s.fetch(ctx, id)
	if isGone(err) {
		return false, nil
	}
	return err == nil && isLive(sub), err
}

// gone is for a subscription that Stripe does not have (any more).
func (s *Sync) gone(ctx context.Context, tx pgx.Tx, id, by string) (settled, error) {
	b, err := load(ctx, tx, &stripe.Subscription{ID: id})
	if err != nil {
		return settled{}, err
	}
	owner, current := b.owner(id)
	detail := "Stripe has no subscription %s: look whether the hook and the key are of the same account and mode"
	if current {
		detail = "Stripe has no subscription %s, which is the tenant's: it runs on as it was; end it with: odometer subscription set --status canceled"
	}
	v := finding(KindGone, owner, detail, id)
	if err := s.conclude(ctx, tx, id, by, v, b.open[id]); err != nil {
		return settled{}, err
	}
	return settled{outcome: "finding " + KindGone, found: true}, nil
}

// conclude records the finding that a verdict is, and resolves those that it
// is not any more.
func (s *Sync) conclude(ctx context.Context, tx pgx.Tx, id, by string, v verdict, open []string) error {
	if v.kind == KindSecondSubscription {
		s.log.Error("a tenant has a second subscription", "tenant", v.tenant, "subscription", id, "detail", v.outcome)
	}
	if v.kind != "" {
		err := findings.Record(ctx, tx, findings.Finding{
			Kind: v.kind, Subject: id, Tenant: v.tenant, Detail: v.outcome, FoundBy: by,
		})
		if err != nil {
			return err
		}
	}
	for _, kind := range open {
		if kind == v.kind {
			continue
		}
		if err := findings.Resolve(ctx, tx, kind, id, by, v.outcome); err != nil {
			return err
		}
	}
	return nil
}

// lookBehind settles the other subscriptions of a customer one of whose has
// ended: one that was the second may be the one now.
func (s *Sync) lookBehind(ctx context.Context, over *ended, by string) error {
	if over == nil {
		return nil
	}
	var others []string
	err := s.list(ctx, over.customer, func(sub *stripe.Subscription) error {
		if sub.ID != over.subscription {
			others = append(others, sub.ID)
		}
		return nil
	})
	if err != nil && !isGone(err) { // a deleted customer has none
		return err
	}
	for _, id := range others {
		if _, err := s.settleAlone(ctx, id, by); err != nil {
			return err
		}
	}
	return nil
}

// settleAlone settles in a transaction of its own.
func (s *Sync) settleAlone(ctx context.Context, id, by string) (done settled, err error) {
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		done, err = s.settle(ctx, tx, id, by)
		return err
	})
	return done, err
}
