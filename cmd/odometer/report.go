package main

import (
	"context"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"odometer/aggregator/apply"
	"odometer/cmd/internal/app"
	"odometer/cmd/internal/cli"
	"odometer/reporter"
)

type reportCmd struct {
	cli.DatabaseSettings
	cli.NATSSettings
	app.StripeSettings
	Tenant *cli.Tenant `help:"Only this tenant." placeholder:"UUID"`
	DryRun bool        `help:"Show what would be reported, and report nothing."`
	JSON   bool        `help:"Print JSON."`
}

// Run makes one pass by hand: it tries everything that is not reported.
func (c *reportCmd) Run(ctx context.Context, t *cli.Terminal) error {
	pool, err := c.OpenPool(ctx, cli.ReporterConnections)
	if err != nil {
		return err
	}
	defer pool.Close()
	_, sink, err := c.Account()
	if err != nil {
		return err
	}
	dry := c.DryRun || sink == reporter.DryRun
	var nc *nats.Conn
	if !dry {
		if nc, err = c.Connect("report", false); err != nil {
			return err
		}
		defer nc.Close()
	}
	if dry {
		c.StripeSink = string(reporter.DryRun)
	}
	r, err := c.Reporter(pool, nc, t.Log, nil)
	if err != nil {
		return err
	}
	if dry {
		return app.PrintStatement(ctx, t, pool, r, (*uuid.UUID)(c.Tenant), c.JSON)
	}
	if err := apply.Replaying(ctx, pool); err != nil {
		return err
	}
	result, err := r.Pass(ctx, reporter.Scope{Tenant: (*uuid.UUID)(c.Tenant), ByHand: true})
	return c.say(t, result, err)
}

// say prints what a pass came to.
func (c *reportCmd) say(t *cli.Terminal, result reporter.Result, failed error) error {
	switch {
	case failed != nil && result.Reported+result.LeftCount == 0: // it did not begin
	case c.JSON:
		if err := t.JSON(result); err != nil {
			return err
		}
	default:
		app.PrintPass(t, result)
	}
	return app.PassError(result, failed)
}
