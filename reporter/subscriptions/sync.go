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

// syncResult is the result of syncing one subscription.
type syncResult struct {
	outcome  string
	customer string
	changed  bool
	found    bool               // a finding is open
	ended    *endedSubscription // the tenant's subscription, if it has ended by this
}

// endedSubscription names a subscription that has just ended.
type endedSubscription struct{ id, customer string }

const lockSQL = `select pg_advisory_xact_lock(hashtextextended($1, 0))`

// lock waits until no other transaction holds the name.
func lock(ctx context.Context, tx pgx.Tx, name string) error {
	if _, err := tx.Exec(ctx, lockSQL, "odometer/"+name); err != nil {
		return fmt.Errorf("lock %s: %w", name, err)
	}
	return nil
}

// syncSubscription fetches a subscription and applies it, or records why not.
// The transaction holds the locks, first the subscription's, then the tenant's:
// what is fetched under the first cannot be overtaken, and what is read under
// the second cannot change.
func (s *Sync) syncSubscription(ctx context.Context, tx pgx.Tx, id, by string) (syncResult, error) {
	if err := lock(ctx, tx, "stripe subscription "+id); err != nil {
		return syncResult{}, err
	}
	sub, err := s.fetch(ctx, id)
	if isGone(err) {
		return s.recordGone(ctx, tx, id, by)
	}
	if err != nil {
		return syncResult{}, err
	}
	now := s.Now()
	snap, err := load(ctx, tx, sub)
	if err != nil {
		return syncResult{}, err
	}
	d := snap.decide(sub, now)
	if len(d.changes) > 0 {
		if d, err = s.apply(ctx, tx, sub, d.tenant, now); err != nil {
			return syncResult{}, err
		}
	}
	if err := s.updateFindings(ctx, tx, id, by, d, snap.openFindings[id]); err != nil {
		return syncResult{}, err
	}
	done := syncResult{outcome: d.outcome, changed: len(d.changes) > 0, found: d.kind != ""}
	if d.kind != "" {
		done.outcome = "finding " + d.kind
	}
	if sub.Customer != nil {
		done.customer = sub.Customer.ID
	}
	if done.changed && !isLive(sub) && done.customer != "" {
		done.ended = &endedSubscription{id, done.customer}
	}
	return done, nil
}

// apply applies a subscription to its tenant. It returns the final decision.
func (s *Sync) apply(ctx context.Context, tx pgx.Tx, sub *stripe.Subscription, tenant uuid.UUID, now time.Time) (decision, error) {
	if err := lock(ctx, tx, "tenant "+tenant.String()); err != nil {
		return decision{}, err
	}
	snap, err := load(ctx, tx, sub)
	if err != nil {
		return decision{}, err
	}
	d := snap.decide(sub, now)
	if len(d.changes) == 0 {
		return d, nil
	}
	if d.tenant != tenant {
		return decision{}, fmt.Errorf("subscription %s was given from tenant %s to %s meanwhile", sub.ID, tenant, d.tenant)
	}
	if d.replaces != "" {
		stands, err := s.isLiveAtStripe(ctx, d.replaces)
		if err != nil {
			return decision{}, err
		}
		if stands {
			return newFinding(KindSecondSubscription, tenant, "tenant %s has subscription %s, which is live, and now %s too: only the first one counts; cancel one of them in Stripe", tenant, d.replaces, sub.ID), nil
		}
	}
	for _, change := range d.changes {
		err := s.setOrClip(ctx, change, now)
		if errors.Is(err, billing.ErrRefused) {
			return newFinding(KindRefused, tenant, "subscription %s: %s", sub.ID, err), nil
		}
		if err != nil {
			return decision{}, err
		}
	}
	return d, nil
}

// setOrClip applies a change, or the part of it that can still be applied.
func (s *Sync) setOrClip(ctx context.Context, change billing.SubscriptionChange, now time.Time) error {
	_, err := billing.Set(ctx, s.Pool, change, now)
	if !errors.Is(err, billing.ErrRefused) {
		return err
	}
	late, changed, failed := s.clipped(ctx, change, now)
	if failed != nil {
		return failed
	}
	if !changed {
		return err
	}
	if _, err := billing.Set(ctx, s.Pool, late, now); err != nil {
		return err
	}
	s.Log.Warn("a change came after its period had ended", "tenant", change.Tenant, "subscription", *change.StripeSubscription,
		"stated_from", change.Start, "stated_to", change.End, "acts_from", late.Start, "acts_to", late.End)
	return nil
}

// clipped is the part of a refused change that can still be applied, given the
// periods after the rollover that is due.
func (s *Sync) clipped(ctx context.Context, change billing.SubscriptionChange, now time.Time) (late billing.SubscriptionChange, changed bool, err error) {
	if err := billing.RollOver(ctx, s.Pool, []uuid.UUID{change.Tenant}, now, now); err != nil {
		return change, false, fmt.Errorf("roll over tenant %s: %w", change.Tenant, err)
	}
	stored, err := billing.Load(ctx, s.Pool, change.Tenant)
	switch {
	case errors.Is(err, billing.ErrNoSubscription):
		return change, false, nil
	case err != nil:
		return change, false, err
	}
	late = clipToOpen(stored, change, now)
	return late, !late.Start.Equal(change.Start) || !late.End.Equal(change.End), nil
}

// isLiveAtStripe reports whether a subscription is live at Stripe.
func (s *Sync) isLiveAtStripe(ctx context.Context, id string) (bool, error) {
	sub, err := s.fetch(ctx, id)
	if isGone(err) {
		return false, nil
	}
	return err == nil && isLive(sub), err
}

// recordGone records that Stripe does not have a subscription (any more).
func (s *Sync) recordGone(ctx context.Context, tx pgx.Tx, id, by string) (syncResult, error) {
	snap, err := load(ctx, tx, &stripe.Subscription{ID: id})
	if err != nil {
		return syncResult{}, err
	}
	owner, current := snap.ownerOf(id)
	detail := "Stripe has no subscription %s: check whether the hook and the key are of the same account and mode"
	if current {
		detail = "Stripe has no subscription %s, which is the tenant's: it runs on as it was; end it with: odometer subscription set --status canceled"
	}
	d := newFinding(KindGone, owner, detail, id)
	if err := s.updateFindings(ctx, tx, id, by, d, snap.openFindings[id]); err != nil {
		return syncResult{}, err
	}
	return syncResult{outcome: "finding " + KindGone, found: true}, nil
}

// updateFindings records the finding of a decision, and resolves the others.
func (s *Sync) updateFindings(ctx context.Context, tx pgx.Tx, id, by string, d decision, open []string) error {
	if d.kind == KindSecondSubscription {
		s.Log.Error("a tenant has a second subscription", "tenant", d.tenant, "subscription", id, "detail", d.outcome)
	}
	if d.kind != "" {
		err := findings.Record(ctx, tx, findings.Finding{
			Kind: d.kind, Subject: id, Tenant: d.tenant, Detail: d.outcome, FoundBy: by,
		})
		if err != nil {
			return err
		}
	}
	for _, kind := range open {
		if kind == d.kind {
			continue
		}
		if err := findings.Resolve(ctx, tx, kind, id, by, d.outcome); err != nil {
			return err
		}
	}
	return nil
}

// syncOthersOf syncs the other subscriptions of a customer one of whose has
// ended: a second one may count now.
func (s *Sync) syncOthersOf(ctx context.Context, ended *endedSubscription, by string) error {
	if ended == nil {
		return nil
	}
	var others []string
	err := s.list(ctx, ended.customer, func(sub *stripe.Subscription) error {
		if sub.ID != ended.id {
			others = append(others, sub.ID)
		}
		return nil
	})
	if err != nil && !isGone(err) { // a deleted customer has none
		return err
	}
	for _, id := range others {
		if _, err := s.syncAlone(ctx, id, by); err != nil {
			return err
		}
	}
	return nil
}

// syncAlone syncs in a transaction of its own.
func (s *Sync) syncAlone(ctx context.Context, id, by string) (done syncResult, err error) {
	err = pgx.BeginFunc(ctx, s.Pool, func(tx pgx.Tx) error {
		done, err = s.syncSubscription(ctx, tx, id, by)
		return err
	})
	return done, err
}
