package billing

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"odometer"
)

// ErrNoSubscription says that a tenant has none.
var ErrNoSubscription = errors.New("no subscription")

// Tenant is what one tenant's events are judged by.
type Tenant struct {
	Subscription odometer.Subscription
	Periods      []odometer.Period // in order
}

// Due reports whether a period that contains t would follow the last one by itself.
func (t *Tenant) Due(at time.Time) bool {
	if len(t.Periods) == 0 {
		return false
	}
	return len(t.Subscription.Roll(t.Periods[len(t.Periods)-1].End, at)) > 0
}

// LoadTenants reads subscriptions and the periods that end after since, and the
// last one in any case: it is what the next would follow. A tenant without a
// subscription is missing from the result.
func LoadTenants(ctx context.Context, q querier, tenants []uuid.UUID, since time.Time) (map[uuid.UUID]*Tenant, error) {
	found := make(map[uuid.UUID]*Tenant, len(tenants))
	if err := loadSubscriptions(ctx, q, tenants, found); err != nil {
		return nil, err
	}
	if err := loadPeriods(ctx, q, tenants, since, found); err != nil {
		return nil, err
	}
	return found, nil
}

const loadSubscriptionsSQL = `
select
    tenant_id,
    coalesce(plan_id, ''),
    status,
    period_interval,
    anchor,
    trial_ends_at,
    coalesce(stripe_customer, ''),
    coalesce(stripe_subscription, '')
from subscriptions
where tenant_id = any($1)`

func loadSubscriptions(ctx context.Context, q querier, tenants []uuid.UUID, into map[uuid.UUID]*Tenant) error {
	rows, _ := q.Query(ctx, loadSubscriptionsSQL, tenants)
	var s odometer.Subscription
	_, err := pgx.ForEachRow(rows, []any{
		&s.Tenant, &s.PlanID, &s.Status, &s.Interval, &s.Anchor, &s.TrialEndsAt, &s.StripeCustomer, &s.StripeSubscription,
	}, func() error {
		into[s.Tenant] = &Tenant{Subscription: s}
		s.TrialEndsAt = nil
		return nil
	})
	if err != nil {
		return fmt.Errorf("load %d subscriptions: %w", len(tenants), err)
	}
	return nil
}

const loadPeriodsSQL = `
select
    tenant_id,
    period_start,
    period_end,
    coalesce(plan_id, ''),
    trial,
    coalesce(closed_epoch, 0),
    coalesce(closed_seq, -1)
from billing_periods p
where tenant_id = any($1)
  and (
      period_end > $2
      or period_start = (select max(l.period_start) from billing_periods l where l.tenant_id = p.tenant_id)
  )
order by tenant_id, period_start`

func loadPeriods(ctx context.Context, q querier, tenants []uuid.UUID, since time.Time, into map[uuid.UUID]*Tenant) error {
	rows, _ := q.Query(ctx, loadPeriodsSQL, tenants, since)
	var id uuid.UUID
	var p odometer.Period
	var closed odometer.Position
	_, err := pgx.ForEachRow(rows, []any{
		&id, &p.Start, &p.End, &p.PlanID, &p.Trial, &closed.Epoch, &closed.Seq,
	}, func() error {
		period := p
		if closed.Seq >= 0 {
			at := closed
			period.ClosedAt = &at
		}
		if t := into[id]; t != nil {
			t.Periods = append(t.Periods, period)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("load periods of %d tenants: %w", len(tenants), err)
	}
	return nil
}

// Load reads one tenant with all its periods, or ErrNoSubscription.
func Load(ctx context.Context, q querier, tenant uuid.UUID) (*Tenant, error) {
	found, err := LoadTenants(ctx, q, []uuid.UUID{tenant}, time.Time{})
	if err != nil {
		return nil, err
	}
	if found[tenant] == nil {
		return nil, fmt.Errorf("tenant %s: %w", tenant, ErrNoSubscription)
	}
	return found[tenant], nil
}
