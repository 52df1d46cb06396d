package subscriptions

import (
	"context"
	"fmt"
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

// mapping says which tenant has which customer and subscription.
type mapping struct {
	Tenant                 uuid.UUID
	Customer, Subscription string
}

// books is what we have stored that concerns some subscriptions.
type books struct {
	plans    map[string]bool
	mappings []mapping
	tenants  map[uuid.UUID]*billing.Tenant
	open     map[string][]string // kinds of open findings by subscription
}

// load reads the books for subscriptions as they were fetched.
func load(ctx context.Context, q querier, subs ...*stripe.Subscription) (*books, error) {
	b := &books{}
	var err error
	if b.plans, err = loadPlans(ctx, q); err != nil {
		return nil, err
	}
	if b.mappings, err = loadMappings(ctx, q, subs); err != nil {
		return nil, err
	}
	if b.open, err = loadOpen(ctx, q, subs); err != nil {
		return nil, err
	}
	tenants := make([]uuid.UUID, 0, len(subs))
	since := int64(0)
	for i, sub := range subs {
		if id, ok := odometer.ParseTenant(statedTenant(sub)); ok {
			tenants = append(tenants, id)
		}
		if i == 0 || sub.CurrentPeriodStart < since {
			since = sub.CurrentPeriodStart
		}
	}
	for _, m := range b.mappings {
		tenants = append(tenants, m.Tenant)
	}
	b.tenants, err = billing.LoadTenants(ctx, q, tenants, time.Unix(since, 0))
	return b, err
}

const plansSQL = `select plan_id from plans`

func loadPlans(ctx context.Context, q querier) (map[string]bool, error) {
	rows, _ := q.Query(ctx, plansSQL)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("load plans: %w", err)
	}
	plans := make(map[string]bool, len(ids))
	for _, id := range ids {
		plans[id] = true
	}
	return plans, nil
}

const mappingsSQL = `
select tenant_id as tenant, coalesce(stripe_customer, '') as customer, coalesce(stripe_subscription, '') as subscription
from subscriptions
where stripe_subscription = any($1)
   or stripe_customer = any($2)
order by tenant_id`

func loadMappings(ctx context.Context, q querier, subs []*stripe.Subscription) ([]mapping, error) {
	ids, customers := make([]string, 0, len(subs)), make([]string, 0, len(subs))
	for _, sub := range subs {
		ids = append(ids, sub.ID)
		if sub.Customer != nil {
			customers = append(customers, sub.Customer.ID)
		}
	}
	rows, _ := q.Query(ctx, mappingsSQL, ids, customers)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[mapping])
	if err != nil {
		return nil, fmt.Errorf("load tenants of %d subscriptions: %w", len(subs), err)
	}
	return found, nil
}

const openSQL = `
select subject, kind
from audit_findings
where resolved_at is null
  and kind = any($1)
  and subject = any($2)`

func loadOpen(ctx context.Context, q querier, subs []*stripe.Subscription) (map[string][]string, error) {
	ids := make([]string, 0, len(subs))
	for _, sub := range subs {
		ids = append(ids, sub.ID)
	}
	open := map[string][]string{}
	var subject, kind string
	rows, _ := q.Query(ctx, openSQL, kinds, ids)
	_, err := pgx.ForEachRow(rows, []any{&subject, &kind}, func() error {
		open[subject] = append(open[subject], kind)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("load findings of %d subscriptions: %w", len(subs), err)
	}
	return open, nil
}

// owner is the tenant whose subscription this is by our books.
func (b *books) owner(subscription string) (uuid.UUID, bool) {
	for _, m := range b.mappings {
		if m.Subscription == subscription {
			return m.Tenant, true
		}
	}
	return uuid.Nil, false
}

// mapped are the tenants that have the customer by our books.
func (b *books) mapped(sub *stripe.Subscription) (tenants []uuid.UUID) {
	for _, m := range b.mappings {
		if sub.Customer != nil && sub.Customer.ID != "" && m.Customer == sub.Customer.ID {
			tenants = append(tenants, m.Tenant)
		}
	}
	return tenants
}

// statedTenant is the tenant that Stripe names: the subscription's, else its
// customer's.
func statedTenant(sub *stripe.Subscription) string {
	if id := sub.Metadata["tenant_id"]; id != "" {
		return id
	}
	if sub.Customer != nil {
		return sub.Customer.Metadata["tenant_id"]
	}
	return ""
}
