package main

import (
	"context"
	"time"

	"github.com/google/uuid"

	"odometer/audit"
	"odometer/cmd/internal/app"
	"odometer/cmd/internal/cli"
)

// auditSettings are what the audit needs.
type auditSettings struct {
	cli.DatabaseSettings
	cli.NATSSettings
	app.StripeSettings
	Tenant *cli.Tenant `help:"Only this tenant." placeholder:"UUID"`
	JSON   bool        `help:"Print JSON."`
}

type auditCmd struct {
	auditSettings
	Since *time.Time `help:"Only what the stream stored from then on, as RFC 3339." placeholder:"TIME"`
}

// auditConnections leave each chunk that is compared one of its own.
const auditConnections = 8

// Run runs the audit. Differences end it with exit code 1.
func (c *auditCmd) Run(ctx context.Context, t *cli.Terminal) error {
	options, done, err := c.open(ctx, t)
	if err != nil {
		return err
	}
	defer done()
	scope := audit.Scope{Tenant: (*uuid.UUID)(c.Tenant)}
	if c.Since != nil {
		scope.Since = *c.Since
	}
	progress := cli.CountProgress(t)
	report, failed := audit.Run(ctx, options, scope, func(p audit.Progress) { progress.At(p.Step, p.Done, p.Total) })
	progress.Done(nil)
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
		return cli.ErrFindings
	}
	return nil
}

// open connects to what is compared.
func (c *auditSettings) open(ctx context.Context, t *cli.Terminal) (o audit.Options, done func(), err error) {
	stripe, _, err := c.Account()
	if err != nil {
		return o, nil, err
	}
	pool, err := c.OpenMigrated(ctx, auditConnections)
	if err != nil {
		return o, nil, err
	}
	nc, err := c.Connect("audit", false)
	if err != nil {
		pool.Close()
		return o, nil, err
	}
	done = func() { nc.Close(); pool.Close() }
	o = audit.Options{Pool: pool, NATS: nc, Log: t.Log}
	if stripe != nil {
		r, err := c.Reporter(pool, nc, t.Log, nil)
		if err != nil {
			done()
			return o, nil, err
		}
		o.Stripe = app.StripeChecks(r)
	}
	return o, done, nil
}

// say prints what was found, as JSON the given value.
func (c *auditSettings) say(t *cli.Terminal, report *audit.Report, value any) error {
	if c.JSON {
		return t.JSON(value)
	}
	app.PrintAudit(t, report)
	return nil
}

type reconcileCmd struct {
	auditSettings
	Force bool `help:"Also repair a drift of 5 % and more, and what the stream is too short to prove."`
}

// Run runs the audit and sets the counters that differ to the sum of
// their events, where the stream confirms those.
func (c *reconcileCmd) Run(ctx context.Context, t *cli.Terminal) error {
	options, done, err := c.open(ctx, t)
	if err != nil {
		return err
	}
	defer done()
	progress := cli.CountProgress(t)
	how := audit.ReconcileOptions{Force: c.Force, By: cli.Operator()}
	result, failed := audit.Reconcile(ctx, options, audit.Scope{Tenant: (*uuid.UUID)(c.Tenant)}, how, func(p audit.Progress) { progress.At(p.Step, p.Done, p.Total) })
	progress.Done(nil)
	if failed != nil && result.Report.Different == 0 {
		return failed
	}
	if failed == nil && c.Tenant == nil {
		if err := audit.RecordFindings(ctx, options.Pool, result.Report); err != nil {
			return err
		}
	}
	if err := c.say(t, result.Report, result); err != nil {
		return err
	}
	if !c.JSON {
		app.PrintRepairs(t, result)
	}
	switch {
	case failed != nil:
		return failed
	case !result.Done():
		return cli.ErrFindings
	}
	return nil
}
