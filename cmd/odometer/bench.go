package main

import (
	"context"
	"slices"
	"time"

	"odometer/cmd/internal/bench"
	"odometer/cmd/internal/cli"
)

type benchCmd struct {
	Events  int      `default:"200000" help:"Events of the write and of the ingest benchmark; growth counts ten times as many."`
	Only    []string `default:"write,latency,ingest,query,audit" help:"The benchmarks to run, of write,latency,ingest,query,audit,growth; by default all but growth."`
	Full    bool     `help:"Run growth too, and audit with 3000000 events: millions of events are stored first, which takes twenty minutes in all."`
	Rounds  int      `default:"3" help:"How often each benchmark is run; the tables show medians."`
	Stored  []int    `default:"1000000,10000000" help:"Events that are stored already when growth begins."`
	Audited []int    `help:"Events of the audit benchmark; by default 100000 and 300000, with --full also 3000000." placeholder:"N"`
	DataDir string   `help:"The directory whose disk is measured; what is written there is removed again. Without it, the system's for temporary files." placeholder:"DIR"`
	JSON    bool     `help:"Print JSON."`

	Span  time.Duration `hidden:"" default:"10s" help:"How long a run lasts that is bounded by time; the naive and the query runs take shares of it."`
	Child bench.Child   `embed:"" prefix:"child-"`
}

// Help is the long form of the command's help.
func (c *benchCmd) Help() string {
	return `Runs on a private Postgres and NATS of its own, both of which sync their disk before they say that something is stored; nothing else on the machine is touched, and nothing is left behind. What is compared runs side by side, in turn within each round, so that the ratios hold where the figures themselves depend on the machine and on what else it does.

  write    from a filled stream to committed counters, beside one transaction per event and beside a bare COPY
  latency  from publish to visible in another connection
  ingest   POST /api/v1/events, from the first request to committed counters
  query    GET /api/v1/usage beside a bare select 1
  audit    both sides of the audit beside a bare read of the stream and a bare sum
  growth   the aggregator of write with millions of events stored already

Takes about five minutes on two cores, with --full twenty. The reporter's benchmark is a Go benchmark: go test -run ^$ -bench Pass ./reporter`
}

// Run runs the benchmarks and prints a table for each. It fails when an event
// was lost or counted twice.
func (c *benchCmd) Run(ctx context.Context, t *cli.Terminal) error {
	if c.Child.Role != "" {
		return c.Child.Run(ctx, t)
	}
	o := bench.Options{
		Only: c.Only, Rounds: c.Rounds, Events: c.Events, Stored: c.Stored, Audited: c.Audited,
		Span: c.Span, DataDir: c.DataDir, JSON: c.JSON,
	}
	if len(o.Audited) == 0 {
		o.Audited = []int{100_000, 300_000}
		if c.Full {
			o.Audited = append(o.Audited, 3_000_000)
		}
	}
	if c.Full && !slices.Contains(o.Only, "growth") {
		o.Only = append(o.Only, "growth")
	}
	return bench.Run(ctx, t, o)
}
