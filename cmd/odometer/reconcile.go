package main

import (
	"context"

	"github.com/google/uuid"

	"odometer/audit"
	"odometer/cmd/internal/app"
	"odometer/cmd/internal/cli"
)

type reconcileCmd struct {
	auditSettings
	Force bool `help:"Also repair a drift of 5 % and more, and what the stream is too short to prove."`
}

// Run runs the audit and sets the counters that differ to the sum of
// their events, where the stream bears those out.
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
