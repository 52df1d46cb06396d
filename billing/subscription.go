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

// SubscriptionChange is a subscription as it is to be, and the period that it
// begins with or began with.
type SubscriptionChange struct {
	Tenant             uuid.UUID
	PlanID             string // "": none
	Status             odometer.Status
	Interval           odometer.Interval
	Start, End         time.Time
	TrialEndsAt        *time.Time
	StripeCustomer     *string // nil leaves what is stored
	StripeSubscription *string
}

// Set makes the change the tenant's subscription, as of now. The start of a known
// period updates that period; a later start ends the running period there, and
// events that occurred after it move with their counts; from an end in the past
// periods roll over to now. It returns the tenant as it is afterwards, and
// ErrRefused when the change contradicts itself, names an unknown plan, or would
// change a closed period.
func Set(ctx context.Context, pool *pgxpool.Pool, c SubscriptionChange, now time.Time) (*Tenant, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	var after *Tenant
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if err := Lock(ctx, tx, c.Tenant); err != nil {
			return err
		}
		// What has ended by now keeps the limits and prices it ended with, also when
		// no aggregator has run since.
		if err := rollOverLocked(ctx, tx, []uuid.UUID{c.Tenant}, now, now); err != nil {
			return err
		}
		err := c.apply(ctx, tx, now)
		if err != nil {
			return err
		}
		after, err = Load(ctx, tx, c.Tenant)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("set subscription of tenant %s: %w", c.Tenant, err)
	}
	return after, nil
}

func (c *SubscriptionChange) check() error {
	switch {
	case !c.Start.Before(c.End):
		return fmt.Errorf("%w: the period ends at %s, which is not after its start %s: give a later --period-end",
			ErrRefused, c.End.Format(time.RFC3339), c.Start.Format(time.RFC3339))
	case c.TrialEndsAt != nil && c.Status == odometer.Trial && !c.TrialEndsAt.After(c.Start):
		return fmt.Errorf("%w: the trial ends at %s, which is not after the period's start %s",
			ErrRefused, c.TrialEndsAt.Format(time.RFC3339), c.Start.Format(time.RFC3339))
	}
	return nil
}

func (c *SubscriptionChange) apply(ctx context.Context, tx pgx.Tx, now time.Time) error {
	if err := checkPlan(ctx, tx, c.PlanID); err != nil {
		return err
	}
	stored, err := loadPeriodRows(ctx, tx, c.Tenant)
	if err != nil {
		return err
	}
	sub := odometer.Subscription{
		Tenant: c.Tenant, PlanID: c.PlanID, Status: c.Status, Interval: c.Interval,
		Anchor: c.anchor(stored), TrialEndsAt: c.TrialEndsAt,
	}
	changes, err := planPeriods(stored, sub, c.Start, c.End, now)
	if err != nil {
		return err
	}
	if err := c.checkCustomer(ctx, tx); err != nil {
		return err
	}
	if err := c.keepCustomer(ctx, tx); err != nil {
		return err
	}
	if err := c.upsert(ctx, tx, sub.Anchor, sub.StatusAt(now)); err != nil {
		return err
	}
	if err := changes.write(ctx, tx, c.Tenant); err != nil {
		return err
	}
	return freeze(ctx, tx, []uuid.UUID{c.Tenant}, now)
}

// anchor keeps the stored anchor when the period is given again unchanged: at
// 28 February it no longer shows that the anchor was a 31st.
func (c *SubscriptionChange) anchor(stored tenantPeriods) time.Time {
	for _, p := range stored.periods {
		if p.Start.Equal(c.Start) && p.End.Equal(c.End) && stored.interval == c.Interval {
			return stored.anchor
		}
	}
	return c.Interval.Anchor(c.Start, c.End)
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

// checkCustomer refuses a customer of two tenants: Stripe adds up by customer, so
// it would not be known whose usage an invoice bills.
func (c *SubscriptionChange) checkCustomer(ctx context.Context, tx pgx.Tx) error {
	if c.StripeCustomer == nil || *c.StripeCustomer == "" {
		return nil
	}
	var other uuid.UUID
	switch err := tx.QueryRow(ctx, customerTakenSQL, *c.StripeCustomer, c.Tenant).Scan(&other); {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return fmt.Errorf("find the tenant of customer %s: %w", *c.StripeCustomer, err)
	}
	return fmt.Errorf("%w: Stripe customer %s is tenant %s already: one customer bills one tenant; give each its own, or cancel the other's subscription first",
		ErrRefused, *c.StripeCustomer, other)
}

const keepCustomerSQL = `
update billing_periods p
set stripe_customer = s.stripe_customer
from subscriptions s
where s.tenant_id = $1
  and p.tenant_id = $1
  and p.status = 'open'
  and p.stripe_customer is null
  and p.period_start < $2
  and p.period_end >= $2`

// keepCustomer keeps the present customer on the period that the change ends.
func (c *SubscriptionChange) keepCustomer(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, keepCustomerSQL, c.Tenant, c.Start); err != nil {
		return fmt.Errorf("keep the customer of the period before %s: %w", c.Start.Format(time.RFC3339), err)
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

func (c *SubscriptionChange) upsert(ctx context.Context, tx pgx.Tx, anchor time.Time, status odometer.Status) error {
	_, err := tx.Exec(ctx, upsertSubscriptionSQL,
		c.Tenant, c.PlanID, status, c.Interval, anchor, c.TrialEndsAt, c.StripeCustomer, c.StripeSubscription)
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
