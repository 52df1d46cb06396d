package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/nats-io/nats.go"

	"odometer"
	"odometer/aggregator/apply"
	"odometer/billing"
	"odometer/reporter"
)

type reportCmd struct {
	databaseSettings
	natsSettings
	stripeSettings
	Tenant *tenant `help:"Only this tenant." placeholder:"UUID"`
	DryRun bool    `help:"Show what would be told, and tell nothing."`
	JSON   bool    `help:"Print JSON."`
}

// reportConnections leaves each call under way a connection to mark and store by.
const reportConnections = 16

// Run makes one pass by hand: it tries everything that is not told.
func (c *reportCmd) Run(ctx context.Context, t *terminal) error {
	pool, err := c.openWide(ctx, reportConnections)
	if err != nil {
		return err
	}
	defer pool.Close()
	_, sink, err := c.account()
	if err != nil {
		return err
	}
	dry := c.DryRun || sink == reporter.DryRun
	var nc *nats.Conn
	if !dry {
		if nc, err = c.connect("report", false); err != nil {
			return err
		}
		defer nc.Close()
	}
	if dry {
		c.StripeSink = string(reporter.DryRun)
	}
	r, err := c.reporter(pool, nc, t.log, nil)
	if err != nil {
		return err
	}
	if dry {
		return showStatement(ctx, t, pool, r, (*uuid.UUID)(c.Tenant), c.JSON)
	}
	if err := apply.Replaying(ctx, pool); err != nil {
		return err
	}
	result, err := r.Pass(ctx, reporter.Scope{Tenant: (*uuid.UUID)(c.Tenant), ByHand: true})
	return c.say(t, result, err)
}

// openWide is openMigrated with room for n connections.
func (s *databaseSettings) openWide(ctx context.Context, n int32) (*pgxpool.Pool, error) {
	narrow, err := s.openMigrated(ctx)
	if err != nil {
		return nil, err
	}
	narrow.Close()
	config, err := s.poolConfig(n)
	if err != nil {
		return nil, err
	}
	return pgxpool.NewWithConfig(ctx, config)
}

// showStatement prints the books as a bookkeeper reads them.
func showStatement(ctx context.Context, t *terminal, pool *pgxpool.Pool, r *reporter.Reporter, only *uuid.UUID, asJSON bool) error {
	currency := "usd"
	if catalogue, err := billing.LoadCatalogue(ctx, pool); err == nil {
		currency = catalogue.Currency
	} else if !errors.Is(err, billing.ErrNoCatalogue) {
		return err
	}
	lines := []reporter.Line{}
	var total int64
	err := r.Statement(ctx, only, func(l reporter.Line) {
		lines = append(lines, l)
		total += l.AmountCents
	})
	if err != nil {
		return err
	}
	if asJSON {
		return t.json(statement{lines, total, currency})
	}
	if len(lines) == 0 {
		fmt.Fprintln(t.out, "no overage: there is nothing to tell")
		return nil
	}
	printStatement(t, lines, total, currency)
	return nil
}

func printStatement(t *terminal, lines []reporter.Line, total int64, currency string) {
	rows := make([]table.Row, 0, len(lines)+1)
	for _, l := range lines {
		rows = append(rows, table.Row{l.Tenant, l.Agent, periodOf(l.PeriodStart, l.PeriodEnd), l.Used, limitOf(l.Limit), l.Overage,
			l.Reported, l.ToReport, odometer.Money(l.AmountCents, currency)})
	}
	rows = append(rows, table.Row{"total", "", "", "", "", "", "", "", odometer.Money(total, currency)})
	t.table(table.Row{"tenant", "agent", "period", "used", "limit", "overage", "told so far", "to tell", "amount"}, rows, 4, 5, 6, 7, 8, 9)
}

// statement is what --dry-run --json prints.
type statement struct {
	Lines            []reporter.Line `json:"lines"`
	TotalAmountCents int64           `json:"total_amount_cents"`
	Currency         string          `json:"currency"`
}

func periodOf(start, end time.Time) string {
	if start.Equal(start.Truncate(24*time.Hour)) && end.Equal(end.Truncate(24*time.Hour)) {
		return start.Format(time.DateOnly) + " to " + end.Format(time.DateOnly)
	}
	return start.Format(time.RFC3339) + " to " + end.Format(time.RFC3339)
}

func limitOf(limit *int64) string {
	if limit == nil {
		return "unlimited"
	}
	return strconv.FormatInt(*limit, 10)
}

// say prints what a pass came to.
func (c *reportCmd) say(t *terminal, result reporter.Result, failed error) error {
	switch {
	case failed != nil && result.Reported+result.LeftCount == 0: // it did not begin
	case c.JSON:
		if err := t.json(result); err != nil {
			return err
		}
	default:
		printPass(t, result)
	}
	return leftOr(result, failed)
}

// leftOr is the exit of a pass by hand: something left is something found.
func leftOr(result reporter.Result, failed error) error {
	switch {
	case failed != nil:
		return failed
	case result.LeftCount > 0 || result.Stopped != "":
		return errSaid
	}
	return nil
}

func printPass(t *terminal, result reporter.Result) {
	if len(result.ReportedEntries) > 0 {
		var rows []table.Row
		for _, l := range result.ReportedEntries {
			rows = append(rows, table.Row{l.Tenant, l.Agent, l.Period.Format(time.RFC3339), l.Customer, l.Units})
		}
		t.table(table.Row{"told: tenant", "agent", "period from", "customer", "units"}, rows, 5)
	}
	if len(result.Left) > 0 {
		var rows []table.Row
		for _, l := range result.Left {
			customer := l.Customer
			if customer == "" {
				customer = "(none)"
			}
			rows = append(rows, table.Row{l.Tenant, l.Agent, l.Period.Format(time.RFC3339), customer, l.Units, l.State, l.Reason})
		}
		t.table(table.Row{"left: tenant", "agent", "period from", "customer", "units", "state", "reason"}, rows, 5)
	}
	fmt.Fprintf(t.out, "looked at %d tenants: told %d reports (%d units), left %d\n", result.Tenants, result.Reported, result.Units, result.LeftCount)
	if result.Stopped != "" {
		fmt.Fprintf(t.out, "the pass ended early: %s\n", result.Stopped)
	}
}
