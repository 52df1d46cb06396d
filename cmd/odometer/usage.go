package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jedib0t/go-pretty/v6/table"

	"odometer"
	"odometer/billing"
	"odometer/cmd/internal/cli"
	"odometer/query"
)

type usageCmd struct {
	cli.DatabaseSettings
	Tenant cli.Tenant `required:"" help:"The tenant's UUID." placeholder:"UUID"`
	JSON   bool       `help:"Print the API's JSON."`
}

// Run prints what the API would answer, without its checks of the caller.
func (c *usageCmd) Run(ctx context.Context, t *cli.Terminal) error {
	pool, err := c.OpenMigrated(ctx, cli.FewConnections)
	if err != nil {
		return err
	}
	defer pool.Close()
	ctx, cancel := context.WithTimeout(ctx, cli.DependencyTimeout)
	defer cancel()
	answer, err := query.UsageOfAnyStatus(ctx, pool, uuid.UUID(c.Tenant))
	if errors.Is(err, query.ErrNoSubscription) {
		return fmt.Errorf("tenant %s: %w: set one with: odometer subscription set", uuid.UUID(c.Tenant), billing.ErrNoSubscription)
	}
	if err != nil {
		return err
	}
	if c.JSON {
		return t.JSON(answer)
	}
	plan := "no plan"
	if answer.Plan != nil {
		plan = answer.Plan.Name
	}
	fmt.Fprintf(t.Out, "%s, %s to %s, as of %s\n", plan,
		answer.PeriodStart.Format(time.RFC3339), answer.PeriodEnd.Format(time.RFC3339), answer.AsOf)
	var rows []table.Row
	for _, u := range answer.Usage {
		limit, percent := "unlimited", ""
		if u.Value.Limit != nil {
			limit, percent = strconv.FormatInt(*u.Value.Limit, 10), fmt.Sprintf("%d%%", u.Value.Percentage)
		}
		rows = append(rows, table.Row{u.Name, u.Value.Count, limit, percent, u.Value.Overage,
			odometer.Money(u.Value.OverageCostCents, answer.Currency)})
	}
	rows = append(rows, table.Row{"total", "", "", "", "", odometer.Money(answer.TotalOverageCostCents, answer.Currency)})
	t.Table(table.Row{"agent", "used", "limit", "", "overage", "cost"}, rows, 2, 3, 4, 5, 6)
	for _, a := range answer.Alerts {
		fmt.Fprintf(t.Out, "%s: %s\n", a.Level, a.Message)
	}
	return nil
}
