package demo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
	"odometer/api"
	"odometer/billing"
	"odometer/query/web"
)

// Tenant is a customer of the demo.
type Tenant struct {
	ID     uuid.UUID
	name   string
	plan   string
	status odometer.Status
}

// Tenants are the customers of the demo.
var Tenants = []Tenant{
	{uuid.MustParse("a1b0c0de-0000-4000-8000-000000000001"), "Acme", "price_bundle_monthly", odometer.Active},
	{uuid.MustParse("a1b0c0de-0000-4000-8000-000000000002"), "Bolt", "price_inboxpilot_monthly", odometer.Active},
	{uuid.MustParse("a1b0c0de-0000-4000-8000-000000000003"), "Corvid", "price_invoicepilot_monthly", odometer.Active},
	{uuid.MustParse("a1b0c0de-0000-4000-8000-000000000004"), "Dune", "price_meetingpilot_monthly", odometer.PastDue},
	{uuid.MustParse("a1b0c0de-0000-4000-8000-000000000005"), "Ember", "", odometer.Trial},
	{uuid.MustParse("a1b0c0de-0000-4000-8000-000000000006"), "Flint", "price_bundle_monthly", odometer.Active},
}

// watched is the tenant whose billing period ends while the demo runs, so that
// the way to its bill can be seen.
const watched = "Flint"

func (d *Tenant) slug() string     { return strings.ToLower(d.name) }
func (d *Tenant) customer() string { return "cus_" + d.slug() }

// period is the tenant's first: the current month, or a month that is about to end.
func (d *Tenant) period(now time.Time) (start, end time.Time) {
	if d.name == watched {
		end = now.Add(watchedPeriod).UTC().Truncate(time.Second)
		return end.AddDate(0, -1, 0), end
	}
	month := time.Date(now.UTC().Year(), now.UTC().Month(), 1, 0, 0, 0, 0, time.UTC)
	return month, month.AddDate(0, 1, 0)
}

// occurrence is when an event that is sent at now occurred. Most of a
// month's work arrives in time lapse, so that its history can be seen at once:
// more on working days than at weekends. The watched tenant's period ends, so
// its events are sent as they occur.
func (d *Tenant) occurrence(now time.Time) time.Time {
	start, _ := d.period(now)
	if d.name == watched || rand.IntN(12) == 0 {
		return now
	}
	at := start.Add(rand.N(now.Sub(start)))
	if day := at.Weekday(); (day == time.Saturday || day == time.Sunday) && rand.IntN(3) > 0 {
		at = start.Add(rand.N(now.Sub(start)))
	}
	return at
}

// UnsubscribedTenant sends events although it has no subscription.
var UnsubscribedTenant = uuid.MustParse("a1b0c0de-0000-4000-8000-0000000000ff")

// subscribeTenants gives each tenant that Stripe knows nothing of its
// period, unless it has a subscription from an earlier run.
func subscribeTenants(ctx context.Context, pool *pgxpool.Pool, now time.Time) error {
	for _, d := range Tenants {
		if d.plan != "" {
			continue
		}
		_, err := billing.Load(ctx, pool, d.ID)
		if err == nil {
			continue
		}
		if !errors.Is(err, billing.ErrNoSubscription) {
			return err
		}
		start, end := d.period(now)
		_, err = billing.Set(ctx, pool, billing.SubscriptionChange{
			Tenant: d.ID, PlanID: d.plan, Status: d.status, Interval: odometer.Monthly, Start: start, End: end,
		}, now)
		if err != nil {
			return fmt.Errorf("subscribe %s: %w", d.name, err)
		}
	}
	return nil
}

// sessionTTL is how long a token of the dashboard is good. The dashboard asks
// for a fresh one when it has expired.
const sessionTTL = 15 * time.Minute

// sessions mints a token for each customer of the demo, and one for its
// operator, so that the dashboard needs no sign-in here.
func (d *demo) sessions(context.Context) ([]web.Session, error) {
	operator, err := api.SignToken(d.secret, api.Claims{
		Subject: "operator", Role: api.Admin, Scopes: []string{api.ReadScope, api.WriteScope},
	}, sessionTTL)
	if err != nil {
		return nil, err
	}
	all := []web.Session{{Name: "Operator", Role: string(api.Admin), Token: operator}}
	for i := range Tenants {
		tenant := &Tenants[i]
		token, err := d.token(tenant, sessionTTL)
		if err != nil {
			return nil, err
		}
		all = append(all, web.Session{Name: tenant.name, Role: string(api.Tenant), TenantID: &tenant.ID, Token: token})
	}
	return all, nil
}

// token lets its bearer read and write for one customer.
func (d *demo) token(tenant *Tenant, ttl time.Duration) (string, error) {
	return api.SignToken(d.secret, api.Claims{
		Subject: tenant.slug(), Tenant: tenant.ID, Scopes: []string{api.ReadScope, api.WriteScope},
	}, ttl)
}
