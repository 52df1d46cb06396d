// Package bench measures the product on the machine that it runs on: how fast it
// counts, answers and audits, beside the least work that could do the same. Each
// benchmark brings up a Postgres and NATS servers of its own, which sync their
// disk before they say that something is stored, and leaves nothing behind. After
// each round the counts are verified: a benchmark that lost or doubled an event
// fails instead of printing figures.
package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"odometer/cmd/internal/cli"
)

// Options say what is measured, and how much of it.
type Options struct {
	Only    []string      // names of benchmarks
	Rounds  int           // of each benchmark; tables show medians
	Events  int           // of write and ingest; growth counts ten times as many
	Stored  []int         // events that are stored when growth begins
	Audited []int         // events of audit; each size is the one before, grown
	Span    time.Duration // of a run that is bounded by time
	DataDir string        // whose disk is measured; "" for the system's temporary one
	JSON    bool
}

// Names are the benchmarks, in the order in which they run.
var Names = []string{"write", "latency", "ingest", "query", "audit", "growth"}

// Check returns a usage error for options that cannot be measured.
func (o *Options) Check() error {
	for _, name := range o.Only {
		switch {
		case name == "reporter":
			return cli.Usagef("--only reporter: the reporter's benchmark is a Go benchmark: go test -run ^$ -bench Pass ./reporter")
		case !slices.Contains(Names, name):
			return cli.Usagef("--only %s: want one or more of %s", name, strings.Join(Names, ","))
		}
	}
	for _, limit := range []struct {
		flag        string
		values      []int
		least, most int
	}{
		{"events", []int{o.Events}, 100, 10_000_000},
		{"rounds", []int{o.Rounds}, 1, 100},
		{"stored", o.Stored, 100, 100_000_000},
		{"audited", o.Audited, 100, 100_000_000},
	} {
		for _, n := range limit.values {
			if n < limit.least || n > limit.most {
				return cli.Usagef("--%s %d: want %d to %d", limit.flag, n, limit.least, limit.most)
			}
		}
	}
	if o.Span < 100*time.Millisecond {
		return cli.Usagef("--span %s: want 100ms or more", o.Span)
	}
	return nil
}

// report is what the benchmarks found. Those that were not run are nil.
type report struct {
	Machine machine       `json:"machine"`
	Rounds  int           `json:"rounds"`
	Write   []writeLine   `json:"write,omitempty"`
	Latency []latencyLine `json:"latency,omitempty"`
	Ingest  []ingestLine  `json:"ingest,omitempty"`
	Query   []queryLine   `json:"query,omitempty"`
	Audit   []auditLine   `json:"audit,omitempty"`
	Growth  []growthLine  `json:"growth,omitempty"`
}

// Run runs the benchmarks and prints a table for each.
func Run(ctx context.Context, t *cli.Terminal, o Options) error {
	if err := o.Check(); err != nil {
		return err
	}
	r, err := run(ctx, t, &o)
	if ctx.Err() != nil {
		t.Log.Warn("stopped before the end: there are no results")
		return cli.ErrFindings
	}
	if err != nil {
		return err
	}
	if o.JSON {
		return t.JSON(r)
	}
	r.print(t)
	return nil
}

func run(ctx context.Context, t *cli.Terminal, o *Options) (_ *report, err error) {
	e, err := openEnvironment(ctx, t, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, e.close()) }()
	r := &report{Rounds: o.Rounds}
	if r.Machine, err = e.machine(ctx); err != nil {
		return nil, err
	}
	benchmarks := map[string]func(context.Context, *environment, *report) error{
		"write": benchWrite, "latency": benchLatency, "ingest": benchIngest, "query": benchQuery, "audit": benchAudit, "growth": benchGrowth,
	}
	for _, name := range Names {
		if !slices.Contains(o.Only, name) {
			continue
		}
		if err := benchmarks[name](ctx, e, r); err != nil {
			return nil, fmt.Errorf("benchmark %s: %w", name, err)
		}
	}
	return r, nil
}

func (r *report) print(t *cli.Terminal) {
	m := r.Machine
	fmt.Fprintf(t.Out, "%s, %d cores, %.0f GiB memory, %s; PostgreSQL %s with shared_buffers %s, NATS %s, %s\n",
		m.CPU, m.Cores, float64(m.MemoryBytes)/(1<<30), m.OS, m.Postgres, m.SharedBuffer, m.NATS, m.Go)
	fmt.Fprintf(t.Out, "one sync of 8 kB to disk takes %.0f µs; load average at the start %s\n\n", m.SyncMicros, cmp.Or(m.LoadAtStart, "not known"))
	printTable(t, r.Write, writeNote)
	printTable(t, r.Latency, latencyNote)
	printTable(t, r.Ingest, ingestNote)
	printTable(t, r.Query, queryNote)
	printTable(t, r.Audit, auditNote)
	printTable(t, r.Growth, growthNote)
	fmt.Fprintf(t.Out, "Figures are medians of %d rounds. A ratio is taken within each round, where both sides met the same machine,\n"+
		"and is the median of those: it need not be the ratio of the figures beside it.\n", r.Rounds)
}
