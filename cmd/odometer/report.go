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
	pool, err := c.OpenMigrated(ctx, cli.ReporterConnections)
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
	if dry {
		c.StripeSink = string(reporter.DryRun)
	} else {
		if nc, err = c.Connect("report", false); err != nil {
			return err
		}
		defer nc.Close()
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
	switch {
	case err != nil && result.Reported+result.LeftCount == 0: // it did not begin
	case c.JSON:
		if err := t.JSON(result); err != nil {
			return err
		}
	default:
		app.PrintPass(t, result)
	}
	return app.PassError(result, err)
}
