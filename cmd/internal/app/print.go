package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jedib0t/go-pretty/v6/table"

	"odometer"
	"odometer/audit"
	"odometer/billing"
	"odometer/cmd/internal/cli"
	"odometer/reporter"
)

// PrintStatement prints used, reported and open overage per tenant, agent and period.
func PrintStatement(ctx context.Context, t *cli.Terminal, pool *pgxpool.Pool, r *reporter.Reporter, only *uuid.UUID, asJSON bool) error {
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
		return t.JSON(map[string]any{"lines": lines, "total_amount_cents": total, "currency": currency})
	}
	if len(lines) == 0 {
		fmt.Fprintln(t.Out, "no overage: there is nothing to report")
		return nil
	}
	rows := make([]table.Row, 0, len(lines)+1)
	for _, l := range lines {
		rows = append(rows, table.Row{l.Tenant, l.Agent, periodText(l.PeriodStart, l.PeriodEnd), l.Used, limitText(l.Limit), l.Overage,
			l.Reported, l.ToReport, odometer.Money(l.AmountCents, currency)})
	}
	rows = append(rows, table.Row{"total", "", "", "", "", "", "", "", odometer.Money(total, currency)})
	t.Table(table.Row{"tenant", "agent", "period", "used", "limit", "overage", "reported", "to report", "amount"}, rows, 4, 5, 6, 7, 8, 9)
	return nil
}

func periodText(start, end time.Time) string {
	if start.Equal(start.Truncate(24*time.Hour)) && end.Equal(end.Truncate(24*time.Hour)) {
		return start.Format(time.DateOnly) + " to " + end.Format(time.DateOnly)
	}
	return start.Format(time.RFC3339) + " to " + end.Format(time.RFC3339)
}

func limitText(limit *int64) string {
	if limit == nil {
		return "unlimited"
	}
	return strconv.FormatInt(*limit, 10)
}

// PassError is how a pass by hand ends: what it left unreported is a finding.
func PassError(result reporter.Result, failed error) error {
	switch {
	case failed != nil:
		return failed
	case result.LeftCount > 0 || result.Stopped != "":
		return cli.ErrFindings
	}
	return nil
}

// PrintPass prints what a pass of the reporter reported and left.
func PrintPass(t *cli.Terminal, result reporter.Result) {
	var reported, left []table.Row
	for _, l := range result.ReportedEntries {
		reported = append(reported, table.Row{l.Tenant, l.Agent, l.Period.Format(time.RFC3339), l.Customer, l.Units})
	}
	for _, l := range result.Left {
		left = append(left, table.Row{l.Tenant, l.Agent, l.Period.Format(time.RFC3339), cmp.Or(l.Customer, "(none)"), l.Units, l.State, l.Reason})
	}
	if len(reported) > 0 {
		t.Table(table.Row{"reported: tenant", "agent", "period from", "customer", "units"}, reported, 5)
	}
	if len(left) > 0 {
		t.Table(table.Row{"left: tenant", "agent", "period from", "customer", "units", "state", "reason"}, left, 5)
	}
	fmt.Fprintf(t.Out, "%d tenants: reported %d entries (%d units), left %d\n", result.Tenants, result.Reported, result.Units, result.LeftCount)
	if result.Stopped != "" {
		fmt.Fprintf(t.Out, "the pass ended early: %s\n", result.Stopped)
	}
}

// PrintRepairs prints the counters that reconcile repaired and left.
func PrintRepairs(t *cli.Terminal, result *audit.Reconciliation) {
	print := func(what string, repairs []audit.CounterRepair) {
		if len(repairs) == 0 {
			return
		}
		var rows []table.Row
		for _, r := range repairs {
			rows = append(rows, table.Row{r.Tenant, r.Agent, r.Period.UTC().Format(time.RFC3339Nano), r.Before, r.After, r.Why})
		}
		t.Table(table.Row{what + ": tenant", "agent", "period from", "before", "after", "why"}, rows, 4, 5)
	}
	print("repaired", result.Repaired)
	print("left", result.Left)
	fmt.Fprintf(t.Out, "repaired %d counters, left %d", len(result.Repaired), len(result.Left))
	if result.Others > 0 {
		fmt.Fprintf(t.Out, "; %d other differences stand, with their remedies above", result.Others)
	}
	fmt.Fprintln(t.Out)
}

// StripeChecks hands the reporter's comparison with Stripe to the audit.
func StripeChecks(r *reporter.Reporter) func(context.Context, *uuid.UUID, func(audit.StripeCheck)) error {
	return func(ctx context.Context, only *uuid.UUID, each func(audit.StripeCheck)) error {
		return r.CheckStripe(ctx, only, func(s reporter.StripeCheck) {
			each(audit.StripeCheck{
				Tenant: s.Tenant, Agent: s.Agent, Customer: s.Customer, Meter: s.Meter, PeriodStart: s.Period,
				Ledger: s.Ledger, Stripe: s.Stripe, State: s.State, Reason: s.Reason,
			})
		})
	}
}

// PrintAudit prints the comparisons of an audit and each difference with its repair.
func PrintAudit(t *cli.Terminal, r *audit.Report) {
	var rows []table.Row
	for _, c := range r.Comparisons {
		rows = append(rows, table.Row{c.Name, c.Of, c.Compared, c.Equal, c.Different, c.Unsettled, c.Unknown})
	}
	t.Table(table.Row{"comparison", "of", "compared", "equal", "different", "unsettled", "unknown"}, rows, 3, 4, 5, 6, 7)
	s := r.Stream
	fmt.Fprintf(t.Out, "\nstream %d to %d: %d messages = %d events + %d duplicates + %d dead letters",
		s.First, s.Through, s.Messages, s.Events, s.Duplicates, s.DeadLetters)
	if rest := s.Messages - s.Events - s.Duplicates - s.DeadLetters; rest > 0 {
		fmt.Fprintf(t.Out, " + %d unaccounted for", rest)
	}
	fmt.Fprintf(t.Out, "; %d dead letters are open\n", r.OpenDead)
	for _, note := range r.Notes {
		fmt.Fprintf(t.Out, "%s\n", note)
	}
	for _, d := range r.Differences {
		fmt.Fprintf(t.Out, "DIFFERENT %s: %s\n", d.Kind, DifferenceLine(&d))
	}
	switch more := r.Different - int64(len(r.Differences)); {
	case r.Different == 0:
		fmt.Fprintln(t.Out, "no difference")
	case more > 0:
		fmt.Fprintf(t.Out, "and %d more differences; %d in all\n", more, r.Different)
	}
}

// DifferenceLine is a difference on one line: whose, both values, the likely
// cause, and the command that repairs it.
func DifferenceLine(d *audit.Difference) string {
	line := ""
	if d.Tenant != nil {
		line += "tenant " + d.Tenant.String() + " "
	}
	if d.Agent != "" {
		line += "agent " + d.Agent + " "
	}
	if d.Period != nil {
		line += "period " + d.Period.UTC().Format(time.RFC3339Nano) + " "
	}
	if d.Where != "" {
		line += "at " + d.Where + " "
	}
	return fmt.Sprintf("%s| expected %s, found %s | %s | %s", line, d.Expected, d.Found, d.Cause, d.Repair.Text)
}
