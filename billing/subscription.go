package billing

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
)

// Agreement is a subscription as someone states it: what is agreed, and the
// period it begins or began with.
type Agreement struct {
	Tenant             uuid.UUID
	PlanID             string // "": none
	Status             odometer.Status
	Interval           odometer.Interval
	Start, End         time.Time
	TrialEndsAt        *time.Time
	StripeCustomer     *string // nil leaves what is stored
	StripeSubscription *string
}

// Set makes the agreement the tenant's subscription, as of now. A start that
// is known updates that period; a later one ends the running period there, and
// what occurred after it moves along with its counts; an end in the past rolls
// on to now. It returns the tenant as it stands afterwards, and ErrRefused when
// the agreement contradicts itself, names an unknown plan, or would change a
// closed period.
func Set(ctx context.Context, pool *pgxpool.Pool, a Agreement, now time.Time) (*Tenant, error) {
	if err := a.check(); err != nil {
		return nil, err
	}
	var after *Tenant
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if err := Lock(ctx, tx, a.Tenant); err != nil {
			return err
		}
		// What has ended by now keeps the terms it ended with, also when no
		// aggregator has run since.
		if err := rollOverLocked(ctx, tx, []uuid.UUID{a.Tenant}, now, now); err != nil {
			return err
		}
		err := a.apply(ctx, tx, now)
		if err != nil {
			return err
		}
		after, err = Load(ctx, tx, a.Tenant)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("set subscription of tenant %s: %w", a.Tenant, err)
	}
	return after, nil
}

func (a *Agreement) check() error {
	switch {
	case !a.Start.Before(a.End):
		return fmt.Errorf("%w: the period ends at %s, which is not after its start %s: give a later --period-end",
			ErrRefused, a.End.Format(time.RFC3339), a.Start.Format(time.RFC3339))
	case a.TrialEndsAt != nil && a.Status == odometer.Trial && !a.TrialEndsAt.After(a.Start):
		return fmt.Errorf("%w: the trial ends at %s, which is not after the period's start %s",
			ErrRefused, a.TrialEndsAt.Format(time.RFC3339), a.Start.Format(time.RFC3339))
	}
	return nil
}

func (a *Agreement) apply(ctx context.Context, tx pgx.Tx, now time.Time) error {
	if err := checkPlan(ctx, tx, a.PlanID); err != nil {
		return err
	}
	stored, err := loadLaid(ctx, tx, a.Tenant)
	if err != nil {
		return err
	}
	sub := odometer.Subscription{
		Tenant: a.Tenant, PlanID: a.PlanID, Status: a.Status, Interval: a.Interval,
		Anchor: a.anchor(stored), TrialEndsAt: a.TrialEndsAt,
	}
	layout, err := relay(stored, sub, a.Start, a.End, now)
	if err != nil {
		return err
	}
	if err := a.checkCustomer(ctx, tx); err != nil {
		return err
	}
	if err := a.leaveToCustomer(ctx, tx); err != nil {
		return err
	}
	if err := a.upsert(ctx, tx, sub.Anchor, sub.StatusAt(now)); err != nil {
		return err
	}
	if err := layout.write(ctx, tx, a.Tenant); err != nil {
		return err
	}
	return freeze(ctx, tx, []uuid.UUID{a.Tenant}, now)
}

// anchor keeps the grid of a period that is stated again as it stands: at
// 28 February it no longer shows that the anchor was a 31st.
func (a *Agreement) anchor(stored laid) time.Time {
	for _, p := range stored.periods {
		if p.Start.Equal(a.Start) && p.End.Equal(a.End) && stored.interval == a.Interval {
			return stored.anchor
		}
	}
	return a.Interval.Anchor(a.Start, a.End)
}

const planKnownSQL = `
select
    exists (select from plans where plan_id = $1),
    coalesce((select string_agg(plan_id, ', ' order by position) from plans), 'none')`

func checkPlan(ctx context.Context, tx pgx.Tx, plan string) error {
	if plan == "" {
		return nil
	}
	var known bool
	var all string
	if err := tx.QueryRow(ctx, planKnownSQL, plan).Scan(&known, &all); err != nil {
		return fmt.Errorf("look up plan %q: %w", plan, err)
	}
	if !known {
		return fmt.Errorf("%w: plan %q is not in the catalogue (it has: %s): apply one that has it with: odometer catalogue apply -f FILE",
			ErrRefused, plan, all)
	}
	return nil
}

const customerTakenSQL = `
select tenant_id
from subscriptions
where stripe_customer = $1
  and tenant_id <> $2
  and status not in ('canceled', 'expired')
limit 1`

// checkCustomer refuses a customer of two tenants: Stripe adds up by customer,
// and nobody could say any more whose usage an invoice bills.
func (a *Agreement) checkCustomer(ctx context.Context, tx pgx.Tx) error {
	if a.StripeCustomer == nil || *a.StripeCustomer == "" {
		return nil
	}
	var other uuid.UUID
	switch err := tx.QueryRow(ctx, customerTakenSQL, *a.StripeCustomer, a.Tenant).Scan(&other); {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return fmt.Errorf("look up whose customer %s is: %w", *a.StripeCustomer, err)
	}
	return fmt.Errorf("%w: Stripe customer %s is tenant %s already: one customer bills one tenant; give each its own, or cancel the other's subscription first",
		ErrRefused, *a.StripeCustomer, other)
}

const leaveToCustomerSQL = `
update billing_periods p
set stripe_customer = s.stripe_customer
from subscriptions s
where s.tenant_id = $1
  and p.tenant_id = $1
  and p.status = 'open'
  and p.stripe_customer is null
  and p.period_start < $2
  and p.period_end >= $2`

// leaveToCustomer leaves the period that the agreement ends to the customer who
// had it.
func (a *Agreement) leaveToCustomer(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, leaveToCustomerSQL, a.Tenant, a.Start); err != nil {
		return fmt.Errorf("leave the period before %s to its customer: %w", a.Start.Format(time.RFC3339), err)
	}
	return nil
}

const upsertSubscriptionSQL = `
insert into subscriptions as s (
    tenant_id, plan_id, status, period_interval, anchor, trial_ends_at, stripe_customer, stripe_subscription
)
values ($1, nullif($2, ''), $3, $4, $5, $6, $7, $8)
on conflict (tenant_id) do update
set plan_id = excluded.plan_id,
    status = excluded.status,
    period_interval = excluded.period_interval,
    anchor = excluded.anchor,
    trial_ends_at = excluded.trial_ends_at,
    stripe_customer = coalesce(excluded.stripe_customer, s.stripe_customer),
    stripe_subscription = coalesce(excluded.stripe_subscription, s.stripe_subscription),
    updated_at = now()`

func (a *Agreement) upsert(ctx context.Context, tx pgx.Tx, anchor time.Time, status odometer.Status) error {
	_, err := tx.Exec(ctx, upsertSubscriptionSQL,
		a.Tenant, a.PlanID, status, a.Interval, anchor, a.TrialEndsAt, a.StripeCustomer, a.StripeSubscription)
	if err != nil {
		return fmt.Errorf("store subscription: %w", err)
	}
	return nil
}

// isViolation reports whether Postgres refused a row for the named constraint.
func isViolation(err error, constraint string) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.ConstraintName == constraint
}
