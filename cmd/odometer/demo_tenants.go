package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
	"odometer/terms"
)

// demoTenant is a customer of the demo.
type demoTenant struct {
	id     uuid.UUID
	name   string
	plan   string
	status odometer.Status
}

var demoTenants = []demoTenant{
	{uuid.MustParse("a1b0c0de-0000-4000-8000-000000000001"), "Acme", "price_bundle_monthly", odometer.Active},
	{uuid.MustParse("a1b0c0de-0000-4000-8000-000000000002"), "Bolt", "price_inboxpilot_monthly", odometer.Active},
	{uuid.MustParse("a1b0c0de-0000-4000-8000-000000000003"), "Corvid", "price_invoicepilot_monthly", odometer.Active},
	{uuid.MustParse("a1b0c0de-0000-4000-8000-000000000004"), "Dune", "price_meetingpilot_monthly", odometer.PastDue},
	{uuid.MustParse("a1b0c0de-0000-4000-8000-000000000005"), "Ember", "", odometer.Trial},
}

// demoStranger sends events although it has no subscription.
var demoStranger = uuid.MustParse("a1b0c0de-0000-4000-8000-0000000000ff")

// subscribeDemoTenants gives each tenant the current month, unless it has a
// subscription from an earlier run.
func subscribeDemoTenants(ctx context.Context, pool *pgxpool.Pool, now time.Time) error {
	month := time.Date(now.UTC().Year(), now.UTC().Month(), 1, 0, 0, 0, 0, time.UTC)
	for _, d := range demoTenants {
		_, err := terms.Load(ctx, pool, d.id)
		if err == nil {
			continue
		}
		if !errors.Is(err, terms.ErrNoSubscription) {
			return err
		}
		_, err = terms.Set(ctx, pool, terms.Agreement{
			Tenant: d.id, PlanID: d.plan, Status: d.status, Interval: odometer.Monthly,
			Start: month, End: month.AddDate(0, 1, 0),
		}, now)
		if err != nil {
			return fmt.Errorf("subscribe %s: %w", d.name, err)
		}
	}
	return nil
}
