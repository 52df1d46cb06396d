package main

import (
	"context"
	"errors"
	"fmt"
	"odometer/cmd/internal/cli"
	"slices"
	"time"
)

// The races that bench can run.
const (
	writeRace    = "write"
	latencyRace  = "latency"
	queryRace    = "query"
	reporterRace = "reporter"
	auditRace    = "audit"
	ingestRace   = "ingest"
	growthRace   = "growth"
)

type benchCmd struct {
	Events    int      `default:"200000" help:"Events of the write and of the ingest race; growth counts ten times as many."`
	Only      []string `default:"write,latency,ingest,query,reporter,audit" enum:"write,latency,ingest,query,reporter,audit,growth" help:"The races to run, of ${enum}; by default all but growth."`
	Full      bool     `help:"Run growth too, reporter with 100000 customers and audit with 3000000 events: millions of events are stored first, which takes twenty-five minutes in all."`
	Rounds    int      `default:"3" help:"How often each race is run; the tables show medians."`
	Stored    []int    `default:"1000000,10000000" help:"Events that are stored already when growth begins."`
	Customers []int    `help:"Customers with overage of the reporter race; by default 1000 and 10000, with --full also 100000." placeholder:"N"`
	Audited   []int    `help:"Events of the audit race; by default 100000 and 300000, with --full also 3000000." placeholder:"N"`
	DataDir   string   `help:"The directory whose disk is measured; what is written there is removed again. Without it, the system's for temporary files." placeholder:"DIR"`
	JSON      bool     `help:"Print JSON."`

	Span       time.Duration `hidden:"" default:"10s" help:"How long a run lasts that is bounded by time; the naive and the query runs take shares of it."`
	Contestant contestant    `embed:"" prefix:"contestant-"`
}

// Help is the long form of the command's help.
func (c *benchCmd) Help() string {
	return `Runs on a private Postgres and NATS of its own, both of which sync their disk before they say that something is stored; nothing else on the machine is touched, and nothing is left behind. Contestants meet side by side, in turn within each round, so that their ratios hold where the figures themselves depend on the machine and on what else it does.

  write    from a filled stream to committed counters, beside one transaction per event and beside a bare COPY
  latency  from publish to visible in another connection
  ingest   POST /api/v1/events, from the first request to committed counters
  query    GET /api/v1/usage beside a bare select 1
  reporter one pass that tells Stripe the overage of many customers
  audit    both sides of the audit beside a bare read of the stream and a bare sum
  growth   the write race's aggregator with millions of events stored already

Takes about six minutes on two cores, with --full twenty-five.`
}

// Run runs the races and prints a table for each. A figure whose books do not
// add up is no figure: then it fails.
func (c *benchCmd) Run(ctx context.Context, t *cli.Terminal) error {
	switch {
	case c.Contestant.tells():
		return c.Contestant.runTelling(ctx, t)
	case c.Contestant.audits():
		return c.Contestant.runAuditing(ctx, t)
	case c.Contestant.mails():
		return c.Contestant.runMailing(ctx, t)
	case c.Contestant.Role != "":
		return c.Contestant.run(ctx, t)
	}
	if err := c.check(); err != nil {
		return err
	}
	report, err := c.race(ctx, t)
	if ctx.Err() != nil {
		t.Log.Warn("stopped before the end: there are no results")
		return cli.ErrFindings
	}
	if err != nil {
		return err
	}
	if c.JSON {
		return t.JSON(report)
	}
	report.print(t)
	return nil
}

func (c *benchCmd) check() error {
	switch {
	case c.Events < 1000 || c.Events > 10_000_000:
		return cli.Usagef("--events %d: want 1000 to 10000000", c.Events)
	case c.Rounds < 1 || c.Rounds > 100:
		return cli.Usagef("--rounds %d: want 1 to 100", c.Rounds)
	case c.Span < 100*time.Millisecond:
		return cli.Usagef("--span %s: want 100ms or more", c.Span)
	}
	for _, n := range c.Stored {
		if n < 1000 || n > 100_000_000 {
			return cli.Usagef("--stored %d: want 1000 to 100000000", n)
		}
	}
	for _, n := range c.Customers {
		if n < 1 || n > 1_000_000 {
			return cli.Usagef("--customers %d: want 1 to 1000000", n)
		}
	}
	for _, n := range c.Audited {
		if n < 1000 || n > 100_000_000 {
			return cli.Usagef("--audited %d: want 1000 to 100000000", n)
		}
	}
	if c.Full && !slices.Contains(c.Only, growthRace) {
		c.Only = append(c.Only, growthRace)
	}
	return nil
}

// race brings up the servers, runs the races that were asked for and takes the
// servers down again.
func (c *benchCmd) race(ctx context.Context, t *cli.Terminal) (_ *benchReport, err error) {
	g, err := openGround(ctx, t, c.DataDir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, g.close()) }()
	r := &benchReport{Rounds: c.Rounds}
	if r.Machine, err = g.machine(ctx); err != nil {
		return nil, err
	}
	for _, race := range []struct {
		name string
		run  func(context.Context, *ground, *benchReport) error
	}{
		{writeRace, c.raceWriting}, {latencyRace, c.raceLatency}, {ingestRace, c.raceIngest}, {queryRace, c.raceQueries}, {reporterRace, c.raceReporter}, {auditRace, c.raceAudit}, {growthRace, c.raceGrowth},
	} {
		if !slices.Contains(c.Only, race.name) {
			continue
		}
		if err := race.run(ctx, g, r); err != nil {
			return nil, fmt.Errorf("race %s: %w", race.name, err)
		}
	}
	return r, nil
}
