package main

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jedib0t/go-pretty/v6/table"

	"odometer"
	"odometer/billing"
	"odometer/cmd/internal/cli"
)

type subscriptionCmd struct {
	Set  subscriptionSetCmd  `cmd:"" help:"Set a tenant's subscription. Example: odometer subscription set --tenant 0b7e4d1c-6f0e-4a53-9d55-3c1c0a3f7e01 --plan price_bundle_monthly --status active --period-start 2026-11-01T00:00:00Z --period-end 2026-12-01T00:00:00Z"`
	Show subscriptionShowCmd `cmd:"" help:"Show a tenant's subscription and periods. Example: odometer subscription show --tenant 0b7e4d1c-6f0e-4a53-9d55-3c1c0a3f7e01"`
}

type subscriptionSetCmd struct {
	cli.DatabaseSettings
	Tenant             cli.Tenant `required:"" help:"The tenant's UUID." placeholder:"UUID"`
	Plan               string     `required:"" help:"A plan of the catalogue; \"\" for none." placeholder:"ID"`
	Status             string     `required:"" enum:"trial,active,past_due,canceled,expired" help:"${enum}." placeholder:"STATUS"`
	PeriodStart        time.Time  `required:"" help:"When the billing period began or begins. The start of a known period updates it; a later one ends the running period there." placeholder:"TIME"`
	PeriodEnd          time.Time  `required:"" help:"When it ends. An end in the past rolls on to now." placeholder:"TIME"`
	Interval           string     `enum:"day,week,month,year,none" default:"month" help:"What follows a period: ${enum}."`
	TrialEndsAt        *time.Time `help:"When the trial ends; then the plan's paid period begins, or without a plan the subscription expires." placeholder:"TIME"`
	StripeCustomer     *string    `help:"The tenant's customer in Stripe." placeholder:"ID"`
	StripeSubscription *string    `help:"The tenant's subscription in Stripe." placeholder:"ID"`
	JSON               bool       `help:"Print JSON."`
}

// Run sets the subscription and shows what it has become.
func (c *subscriptionSetCmd) Run(ctx context.Context, t *cli.Terminal) error {
	pool, err := c.OpenMigrated(ctx, cli.FewConnections)
	if err != nil {
		return err
	}
	defer pool.Close()
	after, err := billing.Set(ctx, pool, billing.SubscriptionChange{
		Tenant: uuid.UUID(c.Tenant), PlanID: c.Plan,
		Status: odometer.Status(c.Status), Interval: odometer.Interval(c.Interval),
		Start: cli.Stored(c.PeriodStart), End: cli.Stored(c.PeriodEnd), TrialEndsAt: cli.StoredOrNil(c.TrialEndsAt),
		StripeCustomer: c.StripeCustomer, StripeSubscription: c.StripeSubscription,
	}, time.Now())
	if err != nil {
		return err
	}
	return showSubscription(t, after, c.JSON)
}

type subscriptionShowCmd struct {
	cli.DatabaseSettings
	Tenant cli.Tenant `required:"" help:"The tenant's UUID." placeholder:"UUID"`
	JSON   bool       `help:"Print JSON."`
}

// Run shows a subscription with all its periods.
func (c *subscriptionShowCmd) Run(ctx context.Context, t *cli.Terminal) error {
	pool, err := c.OpenMigrated(ctx, cli.FewConnections)
	if err != nil {
		return err
	}
	defer pool.Close()
	found, err := billing.Load(ctx, pool, uuid.UUID(c.Tenant))
	if err != nil {
		return fmt.Errorf("%w: set one with: odometer subscription set", err)
	}
	return showSubscription(t, found, c.JSON)
}

type subscriptionRow struct {
	TenantID           uuid.UUID   `json:"tenant_id"`
	PlanID             *string     `json:"plan_id"`
	Status             string      `json:"status"`
	Interval           string      `json:"interval"`
	TrialEndsAt        *time.Time  `json:"trial_ends_at"`
	StripeCustomer     *string     `json:"stripe_customer"`
	StripeSubscription *string     `json:"stripe_subscription"`
	Periods            []periodRow `json:"periods"`
}

type periodRow struct {
	PeriodStart time.Time `json:"period_start"`
	PeriodEnd   time.Time `json:"period_end"`
	PlanID      *string   `json:"plan_id"`
	Status      string    `json:"status"`
	Trial       bool      `json:"trial"`
}

func showSubscription(t *cli.Terminal, s *billing.Tenant, asJSON bool) error {
	row := subscriptionRowOf(s)
	if asJSON {
		return t.JSON(row)
	}
	fmt.Fprintf(t.Out, "tenant %s: %s, plan %s, interval %s\n", row.TenantID, row.Status, cli.ValueOr(row.PlanID, "none"), row.Interval)
	if row.TrialEndsAt != nil {
		fmt.Fprintf(t.Out, "trial ends at %s\n", row.TrialEndsAt.Format(time.RFC3339))
	}
	if row.StripeCustomer != nil || row.StripeSubscription != nil {
		fmt.Fprintf(t.Out, "Stripe customer %s, subscription %s\n", cli.ValueOr(row.StripeCustomer, "none"), cli.ValueOr(row.StripeSubscription, "none"))
	}
	var rows []table.Row
	for _, p := range row.Periods {
		kind := "paid"
		if p.Trial {
			kind = "trial"
		}
		rows = append(rows, table.Row{p.PeriodStart.Format(time.RFC3339Nano), p.PeriodEnd.Format(time.RFC3339Nano), cli.ValueOr(p.PlanID, "none"), kind, p.Status})
	}
	t.Table(table.Row{"period start", "period end", "plan", "kind", "status"}, rows)
	return nil
}

func subscriptionRowOf(s *billing.Tenant) subscriptionRow {
	sub := s.Subscription
	row := subscriptionRow{
		TenantID: sub.Tenant, PlanID: orNull(sub.PlanID), Status: string(sub.Status), Interval: string(sub.Interval),
		TrialEndsAt: cli.StoredOrNil(sub.TrialEndsAt), StripeCustomer: orNull(sub.StripeCustomer), StripeSubscription: orNull(sub.StripeSubscription),
		Periods: []periodRow{},
	}
	for _, p := range s.Periods {
		status := "open"
		if p.ClosedAt != nil {
			status = "closed"
		}
		row.Periods = append(row.Periods, periodRow{p.Start.UTC(), p.End.UTC(), orNull(p.PlanID), status, p.Trial})
	}
	return row
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
