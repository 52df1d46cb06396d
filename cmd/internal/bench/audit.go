package bench

import (
	"context"
	"errors"
	"fmt"
	"odometer/audit"
	"odometer/cmd/internal/app"
	"odometer/cmd/internal/cli"
	"odometer/ingest"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// auditRun is what one round came to.
type auditRun struct {
	events                  int
	read, stream, sum, sums time.Duration
	peak                    int64 // bytes of memory at most, of the auditing process alone
}

func (r auditRun) per(took time.Duration) float64 { return float64(r.events) / took.Seconds() }

func (r auditRun) readRate() float64   { return r.per(r.read) }
func (r auditRun) streamRate() float64 { return r.per(r.stream) }
func (r auditRun) sumRate() float64    { return r.per(r.sum) }
func (r auditRun) sumsRate() float64   { return r.per(r.sums) }

func (r auditRun) streamOfRead() float64 { return r.read.Seconds() / r.stream.Seconds() }
func (r auditRun) sumsOfSum() float64    { return r.sum.Seconds() / r.sums.Seconds() }

// auditBench is one stream and what was counted from it, which grow from size to
// size.
type auditBench struct {
	*environment
	work *workload
	s    *stream
	d    *database
	held int // events
}

// benchAudit measures both sides of the audit beside the least that could be
// done: an ordered read without any work, and a bare sum over the same rows.
func benchAudit(ctx context.Context, e *environment, report *report) (err error) {
	a := &auditBench{environment: e, work: newWorkload(tenantCount)}
	if a.d, err = e.openDatabase(ctx, "audited", amplePlan, a.work.tenants); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.d.drop(context.WithoutCancel(ctx))) }()
	if a.s, err = e.openStream(ctx, "audited"); err != nil {
		return err
	}
	defer a.s.close()
	sizes := slices.Compact(slices.Sorted(slices.Values(e.Audited)))
	runs := make([][]auditRun, len(sizes))
	for i, events := range sizes {
		e.terminal.Log.Info("publishing and counting", "events", events-a.held)
		if err := a.grow(ctx, events); err != nil {
			return fmt.Errorf("%d events: %w", events, err)
		}
		for round := range e.Rounds {
			r, err := a.run(ctx)
			if err != nil {
				return fmt.Errorf("%d events: %w", events, err)
			}
			runs[i] = append(runs[i], r)
			e.terminal.Log.Info("audit", "round", round+1, "events", events, "read", int(r.readRate()), "stream_side", int(r.streamRate()),
				"sum", int(r.sumRate()), "counters_side", int(r.sumsRate()), "peak_mib", r.peak>>20)
		}
	}
	report.Audit = auditTable(runs)
	return nil
}

// grow publishes events until there are so many, counts them meanwhile, and
// leaves the table as autovacuum would.
func (a *auditBench) grow(ctx context.Context, events int) error {
	if err := a.count(ctx, events); err != nil {
		return err
	}
	a.held = events
	if err := a.d.verify(ctx, totals{events: events, units: a.work.units(events)}); err != nil {
		return err
	}
	return a.d.exec(ctx, "vacuum (analyze)", "checkpoint")
}

func (a *auditBench) count(ctx context.Context, events int) (err error) {
	p, err := a.start(ctx, "aggregator", childParams{DatabaseURL: a.d.url, NATSURL: a.s.server.ClientURL()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	if err := p.begin(); err != nil {
		return err
	}
	last, err := a.s.fill(ctx, a.work, events-a.held, func(i int) int { return a.held + i })
	if err != nil {
		return err
	}
	return a.d.waitFor(ctx, last)
}

// run does the whole once: each side of the audit comes next to what it is
// measured by. The audit fails unless everything agrees.
func (a *auditBench) run(ctx context.Context) (r auditRun, err error) {
	params := childParams{DatabaseURL: a.d.url, NATSURL: a.s.server.ClientURL(), Messages: a.held}
	read, err := a.measureChild(ctx, "ordered", params, new(int))
	if err != nil {
		return r, err
	}
	var found auditTimes
	audited, err := a.measureChild(ctx, "audit", params, &found)
	if err != nil {
		return r, err
	}
	r = auditRun{events: a.held, read: read.took, stream: found.Stream, sums: found.Sums, peak: audited.peak}
	r.sum, err = a.sumBare(ctx)
	return r, err
}

func (a *auditBench) measureChild(ctx context.Context, role string, params childParams, result any) (m measurement, err error) {
	p, err := a.start(ctx, role, params)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	return a.measure(func() error { return p.do(result) }, p)
}

const bareSumSQL = `
select tenant_id, agent, period_start, sum(quantity)::bigint
from usage_events
group by tenant_id, agent, period_start`

// sumBare takes every row of the sum from Postgres and does nothing with it.
func (a *auditBench) sumBare(ctx context.Context) (time.Duration, error) {
	begin := time.Now()
	rows, _ := a.d.Query(ctx, bareSumSQL)
	for rows.Next() { // their values are not read
	}
	if err := rows.Err(); err != nil {
		return 0, fmt.Errorf("add up the events: %w", err)
	}
	return time.Since(begin), nil
}

// auditTimes are how long each side of an audit took.
type auditTimes struct {
	Stream time.Duration // stream and events
	Sums   time.Duration // events and counters
}

// prepareAudit is the audit, as odometer audit makes it.
func prepareAudit(ctx context.Context, t *cli.Terminal, p childParams) (childWork, string, error) {
	nc, pool, err := connectChild(ctx, p)
	if err != nil {
		return nil, "", err
	}
	return func(ctx context.Context) (any, error) {
		defer nc.Close()
		defer pool.Close()
		return timeAudit(ctx, audit.Options{Pool: pool, NATS: nc, Log: t.Log}, p.Messages)
	}, "", nil
}

// orderedAtOnce is how many messages one request asks for, as the audit does.
const orderedAtOnce = 8000

// prepareOrderedReader is an ordered consumer, as the NATS client has it: it reads
// each message's sequence, and nothing else.
func prepareOrderedReader(_ context.Context, _ *cli.Terminal, p childParams) (childWork, string, error) {
	nc, err := nats.Connect(p.NATSURL)
	if err != nil {
		return nil, "", fmt.Errorf("connect to NATS: %w", err)
	}
	return func(ctx context.Context) (any, error) {
		defer nc.Close()
		consumer, err := cli.JetStream(nc).OrderedConsumer(ctx, ingest.StreamName, jetstream.OrderedConsumerConfig{})
		if err != nil {
			return nil, fmt.Errorf("read the stream: %w", err)
		}
		messages, err := consumer.Messages(jetstream.PullMaxMessages(orderedAtOnce))
		if err != nil {
			return nil, fmt.Errorf("read the stream: %w", err)
		}
		defer messages.Stop()
		defer context.AfterFunc(ctx, messages.Stop)()
		for range p.Messages {
			if _, err := messages.Next(); err != nil {
				return nil, fmt.Errorf("read the stream: %w", err)
			}
		}
		return p.Messages, nil
	}, "", nil
}

// timeAudit audits everything, and fails unless each message is an event, each
// counter is its sum, and nothing is left open.
func timeAudit(ctx context.Context, o audit.Options, messages int) (auditTimes, error) {
	began := map[string]time.Time{} // each step
	r, err := audit.Run(ctx, o, audit.Scope{}, func(p audit.Progress) {
		if _, known := began[p.Step]; !known {
			began[p.Step] = time.Now()
		}
	})
	if err != nil {
		return auditTimes{}, err
	}
	stream, sums, next := r.Comparisons[0], r.Comparisons[1], r.Comparisons[2]
	switch {
	case r.Different > 0:
		return auditTimes{}, fmt.Errorf("WRONG COUNTS: %s", app.DifferenceLine(&r.Differences[0]))
	case stream.Equal != int64(messages), r.Stream.Events != int64(messages), sums.Equal == 0,
		r.Stream.Waiting+stream.Unsettled+stream.Unknown+sums.Unsettled+sums.Unknown > 0:
		return auditTimes{}, fmt.Errorf("WRONG COUNTS: %d of %d messages are events, %d counters agree, %q", r.Stream.Events, messages, sums.Equal, r.Notes)
	case began[stream.Name].IsZero(), began[sums.Name].IsZero(), began[next.Name].IsZero():
		return auditTimes{}, fmt.Errorf("the audit has not reported when its steps began: %v", began)
	}
	return auditTimes{
		Stream: began[sums.Name].Sub(began[stream.Name]),
		Sums:   began[next.Name].Sub(began[sums.Name]),
	}, nil
}

// auditLine is the line of a number of events in the table.
type auditLine struct {
	Events            int       `json:"events" column:"audit, events;thousands"`
	ReadPerSecond     float64   `json:"read_messages_per_second" column:"ordered read, messages/s;thousands"`
	StreamPerSecond   float64   `json:"stream_side_messages_per_second" column:"stream side, messages/s;thousands"`
	StreamOfRead      float64   `json:"stream_side_of_read" column:"of the read;ratio"`
	SumPerSecond      float64   `json:"sum_rows_per_second" column:"bare sum, rows/s;thousands"`
	CountersPerSecond float64   `json:"counters_side_rows_per_second" column:"counters side, rows/s;thousands"`
	CountersOfSum     float64   `json:"counters_side_of_sum" column:"of the sum;ratio"`
	PeakMemory        int64     `json:"peak_memory_bytes" column:"peak memory;memory"` // of the auditing process, over all rounds
	MemoryOfLeast     float64   `json:"peak_memory_of_first_size" column:"ratio;%.2f"`
	StreamRounds      []float64 `json:"stream_side_of_read_rounds"`
	CountersRounds    []float64 `json:"counters_side_of_sum_rounds"`
}

const auditNote = `The read takes every message in order and reads none of them. The stream side of the audit reads the same messages and
compares each with its event in Postgres, metadata included. The sum is a bare select of the quantities by tenant,
agent and period; the counters side sums the same rows, checks their times and positions, and compares each sum with
its counter. Peak memory is the auditing process, with NATS and Postgres outside of it; its ratio is to the first
line. Every event was published and counted by the aggregator, and an audit that finds a difference fails.`

func auditTable(all [][]auditRun) []auditLine {
	var lines []auditLine
	for i, runs := range all {
		line := auditLine{
			Events:        runs[0].events,
			ReadPerSecond: median(runs, auditRun.readRate), StreamPerSecond: median(runs, auditRun.streamRate),
			SumPerSecond: median(runs, auditRun.sumRate), CountersPerSecond: median(runs, auditRun.sumsRate),
			StreamOfRead:  median(runs, auditRun.streamOfRead),
			CountersOfSum: median(runs, auditRun.sumsOfSum),
		}
		for _, r := range runs {
			line.PeakMemory = max(line.PeakMemory, r.peak)
			line.StreamRounds = append(line.StreamRounds, r.streamOfRead())
			line.CountersRounds = append(line.CountersRounds, r.sumsOfSum())
		}
		if lines = append(lines, line); lines[0].PeakMemory > 0 {
			lines[i].MemoryOfLeast = float64(line.PeakMemory) / float64(lines[0].PeakMemory)
		}
	}
	return lines
}
