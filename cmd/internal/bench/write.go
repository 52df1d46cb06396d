package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"odometer"
	"odometer/cmd/internal/cli"
	"odometer/ingest"
)

// What is compared, in the order of the table.
const (
	naiveOne        = "naive, 1 connection"
	naiveFour       = "naive, 4 connections"
	bareCopy        = "bare COPY"
	aggregatedOnce  = "aggregator"
	aggregatedAgain = "aggregator, 95 % repeats"
	onlyRead        = "reading only"
)

const (
	tenantCount = 1000
	repeats     = 0.95 // share of messages in the second stream that repeat the first

	// naiveShare of the span is how long each of the two naive runs takes: their
	// rate is known soon.
	naiveShare = 3
)

// writeRun is what one variant did in one round.
type writeRun struct {
	measurement
	events int
	stored int64 // bytes that were added, 0 when nothing is stored
}

func (r writeRun) rate() float64 { return float64(r.events) / r.took.Seconds() }

// writeBench has the streams, filled once, and the databases. Each variant begins
// with empty tables, right after a checkpoint.
type writeBench struct {
	*environment
	work         *workload
	first, again *stream // new events; mostly repeats of them
	firstEnd     sequences
	againEnd     sequences
	fresh        int // events of again that are new
	aggregated   *database
	naive        *database
	copied       *database
	rows         [][]any // what COPY writes
}

func benchWrite(ctx context.Context, e *environment, report *report) error {
	w := &writeBench{environment: e, work: newWorkload(tenantCount)}
	defer w.close()
	if err := w.prepare(ctx); err != nil {
		return err
	}
	variants := []struct {
		name string
		run  func(context.Context) (writeRun, error)
	}{
		{naiveOne, func(ctx context.Context) (writeRun, error) { return w.runNaive(ctx, 1) }},
		{naiveFour, func(ctx context.Context) (writeRun, error) { return w.runNaive(ctx, 4) }},
		{bareCopy, w.runCopy},
		{aggregatedOnce, w.runAggregator},
		{aggregatedAgain, w.runRepeats}, // repeats what the run before has counted
		{onlyRead, w.runReader},
	}
	runs := map[string][]writeRun{}
	for round := range e.Rounds {
		for _, variant := range variants {
			r, err := variant.run(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", variant.name, err)
			}
			runs[variant.name] = append(runs[variant.name], r)
			e.terminal.Log.Info("write", "round", round+1, "variant", variant.name, "events_per_second", int(r.rate()))
		}
	}
	for _, variant := range variants {
		report.Write = append(report.Write, writeLineOf(variant.name, runs))
	}
	return nil
}

func (w *writeBench) prepare(ctx context.Context) (err error) {
	for name, at := range map[string]**database{"naive": &w.naive, "copied": &w.copied, "aggregated": &w.aggregated} {
		if *at, err = w.openDatabase(ctx, name, amplePlan, w.work.tenants); err != nil {
			return err
		}
	}
	w.terminal.Log.Info("filling the streams", "events", 2*w.Events)
	if w.first, err = w.openStream(ctx, "first"); err != nil {
		return err
	}
	if w.firstEnd, err = w.first.fill(ctx, w.work, w.Events, func(i int) int { return i }); err != nil {
		return err
	}
	if w.again, err = w.openStream(ctx, "again"); err != nil {
		return err
	}
	var list []int
	list, w.fresh = w.work.repeated(w.Events, repeats)
	if w.againEnd, err = w.again.fill(ctx, w.work, w.Events, func(i int) int { return list[i] }); err != nil {
		return err
	}
	return w.prepareRows(ctx)
}

func (w *writeBench) close() {
	for _, s := range []*stream{w.first, w.again} {
		if s != nil {
			s.close()
		}
	}
	for _, d := range []*database{w.naive, w.copied, w.aggregated} {
		if d != nil {
			d.Close()
		}
	}
}

// runStored measures work, and how much the table of events grows by it.
func (w *writeBench) runStored(ctx context.Context, d *database, events int, work func() error, children ...*process) (r writeRun, err error) {
	before, err := d.eventBytes(ctx)
	if err != nil {
		return r, err
	}
	r.events = events
	if r.measurement, err = w.measure(work, children...); err != nil {
		return r, err
	}
	after, err := d.eventBytes(ctx)
	r.stored = after - before
	return r, err
}

// runAggregator counts the first stream into empty tables.
func (w *writeBench) runAggregator(ctx context.Context) (r writeRun, err error) {
	if err := w.aggregated.clear(ctx); err != nil {
		return r, err
	}
	if r, err = w.aggregate(ctx, w.first, w.firstEnd); err != nil {
		return r, err
	}
	return r, w.aggregated.verify(ctx, totals{events: w.Events, units: w.work.units(w.Events)})
}

// runRepeats counts the second stream into the tables that hold the first.
func (w *writeBench) runRepeats(ctx context.Context) (r writeRun, err error) {
	if err := w.aggregated.forgetStream(ctx); err != nil {
		return r, err
	}
	if r, err = w.aggregate(ctx, w.again, w.againEnd); err != nil {
		return r, err
	}
	all := w.Events + w.fresh
	return r, w.aggregated.verify(ctx, totals{events: all, units: w.work.units(all), duplicates: w.Events - w.fresh})
}

// aggregate lets an aggregator count a whole stream: from its start until every
// partition is committed to its last message.
func (w *writeBench) aggregate(ctx context.Context, s *stream, end sequences) (r writeRun, err error) {
	p, err := w.start(ctx, "aggregator", childParams{DatabaseURL: w.aggregated.url, NATSURL: s.server.ClientURL()})
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	return w.runStored(ctx, w.aggregated, w.Events, func() error {
		return inOrder(p.begin, func() error { return w.aggregated.waitFor(ctx, end) })
	}, p)
}

// inOrder runs steps until one fails.
func inOrder(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// runReader reads the first stream and stores nothing.
func (w *writeBench) runReader(ctx context.Context) (r writeRun, err error) {
	p, err := w.start(ctx, "reader", childParams{NATSURL: w.first.server.ClientURL(), Messages: w.Events})
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	r.events = w.Events
	r.measurement, err = w.measure(func() error { return p.do(new(int)) }, p)
	return r, err
}

// prepareReader reads the stream as the aggregator does, by one consumer without
// filter and acknowledgements, and decodes every message.
func prepareReader(ctx context.Context, _ *cli.Terminal, p childParams) (childWork, string, error) {
	nc, err := nats.Connect(p.NATSURL)
	if err != nil {
		return nil, "", fmt.Errorf("connect to NATS: %w", err)
	}
	return func(ctx context.Context) (any, error) {
		defer nc.Close()
		messages, err := consume(ctx, nc, jetstream.AckNonePolicy, jetstream.PullMaxMessagesWithBytesLimit(5000, 8<<20))
		if err != nil {
			return nil, err
		}
		defer messages.Stop()
		defer context.AfterFunc(ctx, messages.Stop)()
		for range p.Messages {
			msg, err := messages.Next()
			if err != nil {
				return nil, fmt.Errorf("read the stream: %w", err)
			}
			if _, err := decodeStored(msg); err != nil {
				return nil, err
			}
		}
		return p.Messages, nil
	}, "", nil
}

func consume(ctx context.Context, nc *nats.Conn, policy jetstream.AckPolicy, options ...jetstream.PullMessagesOpt) (jetstream.MessagesContext, error) {
	consumer, err := cli.JetStream(nc).CreateConsumer(ctx, ingest.StreamName, jetstream.ConsumerConfig{
		AckPolicy: policy, MemoryStorage: true, InactiveThreshold: time.Minute,
	})
	if err != nil {
		return nil, fmt.Errorf("read the stream: %w", err)
	}
	messages, err := consumer.Messages(options...)
	if err != nil {
		return nil, fmt.Errorf("read the stream: %w", err)
	}
	return messages, nil
}

// decodeStored decodes a message of the stream as the aggregator does.
func decodeStored(msg jetstream.Msg) (odometer.Event, error) {
	meta, err := msg.Metadata()
	if err != nil {
		return odometer.Event{}, fmt.Errorf("read the stream: %w", err)
	}
	kind, _, tenant, agent, _ := ingest.ParseStored(msg.Subject())
	e, rejection := ingest.Decode(&ingest.Message{
		Kind: kind, TenantToken: tenant, AgentToken: agent,
		Header: msg.Headers(), Data: msg.Data(), StoredAt: meta.Timestamp,
		Position: odometer.Position{Epoch: 1, Seq: int64(meta.Sequence.Stream)},
	})
	if rejection != nil {
		return e, fmt.Errorf("message %d: %w", meta.Sequence.Stream, rejection)
	}
	return e, nil
}

// writeLine is a variant's line in the table.
type writeLine struct {
	Variant         string    `json:"contestant" column:"write"`
	EventsPerSecond float64   `json:"events_per_second" column:"events/s;thousands"`
	OfNaive         float64   `json:"of_naive_1_connection" column:"x naive;ratio"`
	OfCopy          float64   `json:"of_copy" column:"of COPY;ratio"`
	CPUMicros       float64   `json:"cpu_us_per_event" column:"CPU µs/event;%.1f"`         // of all that took part; 0: not known
	PostgresMicros  float64   `json:"postgres_cpu_us_per_event" column:"Postgres;%.1f"`    // of them Postgres with all its backends
	ChildMicros     float64   `json:"process_cpu_us_per_event" column:"own process;%.1f"`  // of them the child process, where there is one
	StoredBytes     float64   `json:"stored_bytes_per_event" column:"stored B/event;%.0f"` // growth of the table and its indexes, per event handled
	PeakMemory      int64     `json:"peak_memory_bytes" column:"peak memory;memory"`       // of the child process, over all rounds
	Rounds          []float64 `json:"rounds"`                                              // events per second
}

const writeNote = `CPU is all that took part (publishing is not in it): Postgres with its backends, the process of its own, and the rest

in this one: the NATS server, or what sends the rows. Stored is the table of events with its indexes. Peak memory is
the process of its own. Counts were verified after every round.`

func writeLineOf(name string, runs map[string][]writeRun) writeLine {
	all := runs[name]
	micros := func(cpu func(writeRun) time.Duration) float64 {
		return median(all, func(r writeRun) float64 { return float64(cpu(r).Nanoseconds()) / 1e3 / float64(r.events) })
	}
	line := writeLine{
		Variant: name, EventsPerSecond: median(all, writeRun.rate),
		OfNaive: medianRatio(all, runs[naiveOne], writeRun.rate), OfCopy: medianRatio(all, runs[bareCopy], writeRun.rate),
		CPUMicros:      micros(func(r writeRun) time.Duration { return r.cpu() }),
		PostgresMicros: micros(func(r writeRun) time.Duration { return r.postgres }),
		ChildMicros:    micros(func(r writeRun) time.Duration { return r.child() }),
		StoredBytes:    median(all, func(r writeRun) float64 { return float64(r.stored) / float64(r.events) }),
	}
	for _, r := range all {
		line.PeakMemory = max(line.PeakMemory, r.peak)
		line.Rounds = append(line.Rounds, r.rate())
	}
	return line
}
