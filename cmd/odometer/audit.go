package main

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jedib0t/go-pretty/v6/progress"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/nats-io/nats.go"

	"odometer/audit"
	"odometer/reporter"
)

// auditSettings are what comparing the five books needs.
type auditSettings struct {
	databaseSettings
	natsSettings
	stripeSettings
	Tenant *tenant `help:"Only this tenant." placeholder:"UUID"`
	JSON   bool    `help:"Print JSON."`
}

type auditCmd struct {
	auditSettings
	Since *time.Time `help:"Only what the stream stored from then on, as RFC 3339." placeholder:"TIME"`
}

// auditConnections leave each chunk that is compared one of its own.
const auditConnections = 8

// Run compares the five books. Its exit code is the verdict.
func (c *auditCmd) Run(ctx context.Context, t *terminal) error {
	options, done, err := c.open(ctx, t)
	if err != nil {
		return err
	}
	defer done()
	scope := audit.Scope{Tenant: (*uuid.UUID)(c.Tenant)}
	if c.Since != nil {
		scope.Since = *c.Since
	}
	steps := newSteps(t)
	report, failed := audit.Run(ctx, options, scope, steps.at)
	steps.done()
	if failed != nil && report.Different == 0 {
		return failed
	}
	if err := c.say(t, report, report); err != nil {
		return err
	}
	switch {
	case failed != nil:
		return failed
	case report.Different > 0:
		return errSaid
	}
	return nil
}

// open connects to what is compared.
func (c *auditSettings) open(ctx context.Context, t *terminal) (o audit.Options, done func(), err error) {
	stripe, _, err := c.account()
	if err != nil {
		return o, nil, err
	}
	pool, err := c.openWide(ctx, auditConnections)
	if err != nil {
		return o, nil, err
	}
	nc, err := c.connect("audit", false)
	if err != nil {
		pool.Close()
		return o, nil, err
	}
	done = func() { nc.Close(); pool.Close() }
	o = audit.Options{Pool: pool, NATS: nc, Log: t.log}
	if stripe != nil {
		if o.Stripe, err = c.checkStripe(t, pool, nc); err != nil {
			done()
			return o, nil, err
		}
	}
	return o, done, nil
}

// checkStripe is how the audit asks Stripe.
func (c *auditSettings) checkStripe(t *terminal, pool *pgxpool.Pool, nc *nats.Conn) (func(context.Context, *uuid.UUID, func(audit.StripeCheck)) error, error) {
	r, err := c.reporter(pool, nc, t.log, nil)
	if err != nil {
		return nil, err
	}
	return stripeChecks(r), nil
}

// stripeChecks hands the reporter's comparison with Stripe to the audit.
func stripeChecks(r *reporter.Reporter) func(context.Context, *uuid.UUID, func(audit.StripeCheck)) error {
	return func(ctx context.Context, only *uuid.UUID, each func(audit.StripeCheck)) error {
		return r.CheckStripe(ctx, only, func(s reporter.StripeCheck) {
			each(audit.StripeCheck{
				Tenant: s.Tenant, Agent: s.Agent, Customer: s.Customer, Meter: s.Meter, PeriodStart: s.Period,
				Ledger: s.Ledger, Stripe: s.Stripe, State: s.State, Reason: s.Reason,
			})
		})
	}
}

// say prints what was found, as JSON the given value.
func (c *auditSettings) say(t *terminal, report *audit.Report, value any) error {
	if c.JSON {
		return t.json(value)
	}
	printAudit(t, report)
	return nil
}

func printAudit(t *terminal, r *audit.Report) {
	var rows []table.Row
	for _, c := range r.Comparisons {
		rows = append(rows, table.Row{c.Name, c.Of, c.Compared, c.Equal, c.Different, c.Unsettled, c.Unknown})
	}
	t.table(table.Row{"comparison", "of", "compared", "equal", "different", "unsettled", "unknown"}, rows, 3, 4, 5, 6, 7)
	s := r.Stream
	fmt.Fprintf(t.out, "\nstream %d to %d: %d messages = %d events + %d duplicates + %d dead letters",
		s.First, s.Through, s.Messages, s.Events, s.Duplicates, s.DeadLetters)
	if rest := s.Messages - s.Events - s.Duplicates - s.DeadLetters; rest > 0 {
		fmt.Fprintf(t.out, " + %d unaccounted for", rest)
	}
	fmt.Fprintf(t.out, "; %d dead letters are open\n", r.OpenDead)
	for _, note := range r.Notes {
		fmt.Fprintf(t.out, "%s\n", note)
	}
	for _, d := range r.Differences {
		fmt.Fprintf(t.out, "DIFFERENT %s: %s\n", d.Kind, differenceLine(&d))
	}
	switch more := r.Different - int64(len(r.Differences)); {
	case r.Different == 0:
		fmt.Fprintln(t.out, "no difference")
	case more > 0:
		fmt.Fprintf(t.out, "and %d more differences; %d in all\n", more, r.Different)
	}
}

// differenceLine is a difference on one line: whose, both values, the likely
// cause, and the command that repairs it.
func differenceLine(d *audit.Difference) string {
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

// steps shows how far an audit is: a bar with rate and time left on a
// terminal, and nothing elsewhere.
type steps struct {
	t    *terminal
	name string
	bar  *bar
}

func newSteps(t *terminal) *steps { return &steps{t: t} }

func (s *steps) at(p audit.Progress) {
	if !interactive(s.t.err) {
		return
	}
	if s.bar != nil && s.name != p.Step {
		s.bar.done(nil)
		s.bar = nil
	}
	if s.bar == nil {
		s.name, s.bar = p.Step, countingBar(s.t, p.Step, p.Total)
	}
	s.bar.at(p.Done)
}

func (s *steps) done() {
	if s.bar != nil {
		s.bar.done(nil)
	}
}

// countingBar is a progress bar that counts things, not bytes.
func countingBar(t *terminal, what string, total int64) *bar {
	b := &bar{
		writer: progress.NewWriter(), rendered: make(chan struct{}),
		tracker: &progress.Tracker{Message: what, Total: total, Units: progress.UnitsDefault},
	}
	b.writer.SetOutputWriter(t.err)
	b.writer.SetAutoStop(true)
	b.writer.Style().Visibility.ETA = true
	b.writer.Style().Visibility.Speed = true
	b.writer.AppendTracker(b.tracker)
	go func() {
		defer close(b.rendered)
		b.writer.Render()
	}()
	return b
}
