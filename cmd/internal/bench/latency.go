package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"odometer"
	"odometer/cmd/internal/cli"
	"odometer/ingest/publisher"
)

// pacing is how events are published: how many a second, how many at once, and
// by how many publishers, so that none waits for another's sync.
type pacing struct {
	name       string
	rate       int
	batch      int
	publishers int
}

var pacings = []pacing{
	{"one by one", 1000, 1, 16},
	{"in batches of 50", 5000, 50, 4},
}

// publication is an event that the stream holds.
type publication struct {
	at        time.Time // just before the call that published it
	acked     time.Time // when that call returned
	partition int
	seq       int64
}

// observation is a partition's position as another connection saw it.
type observation struct {
	at  time.Time
	seq int64
}

// delays are what one pacing showed in one round.
type delays struct {
	rate           float64 // events a second that were published
	acked, visible [2]time.Duration
}

// delayOf is the time from the publish of each event until the transaction that
// counted it was seen. seen holds each partition's observations in order of time.
func delayOf(published []publication, seen [][]observation) (visible []time.Duration, err error) {
	for _, p := range published {
		of := seen[p.partition]
		i, _ := slices.BinarySearchFunc(of, p.seq, func(s observation, seq int64) int { return int(s.seq - seq) })
		if i == len(of) {
			return nil, fmt.Errorf("message %d of partition %d was never seen counted", p.seq, p.partition)
		}
		visible = append(visible, of[i].at.Sub(p.at))
	}
	return visible, nil
}

func benchLatency(ctx context.Context, e *environment, report *report) (err error) {
	work := newWorkload(tenantCount)
	d, err := e.openDatabase(ctx, "latency", amplePlan, work.tenants)
	if err != nil {
		return err
	}
	defer d.Close()
	s, err := e.openStream(ctx, "latency")
	if err != nil {
		return err
	}
	defer s.close()
	stop, err := e.startAggregator(ctx, d, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	b := &pacedPublisher{work: work, d: d, s: s}
	all, err := b.rounds(ctx, e.terminal, e.Rounds, e.Span)
	if err != nil {
		return err
	}
	for i, p := range pacings {
		report.Latency = append(report.Latency, latencyLineOf(p, all[i]))
	}
	return d.verify(ctx, totals{events: b.published, units: work.units(b.published)})
}

// warmShare of the span goes before the first run.
const warmShare = 5

// pacedPublisher publishes at an even pace and reads the positions meanwhile.
type pacedPublisher struct {
	work      *workload
	d         *database
	s         *stream
	published int // events, by all runs
}

// rounds runs each pacing in turn. Before them goes a run that is not measured:
// in it statements are prepared and the tenants' periods are read.
func (b *pacedPublisher) rounds(ctx context.Context, t *cli.Terminal, rounds int, span time.Duration) ([][]delays, error) {
	if _, err := b.run(ctx, pacings[0], span/warmShare); err != nil {
		return nil, err
	}
	all := make([][]delays, len(pacings))
	for round := range rounds {
		for i, p := range pacings {
			found, err := b.run(ctx, p, span)
			if err != nil {
				return nil, err
			}
			all[i] = append(all[i], found)
			t.Log.Info("latency", "round", round+1, "published", p.name,
				"acknowledged_p50", found.acked[0], "p50", found.visible[0], "p99", found.visible[1])
		}
	}
	return all, nil
}

func (b *pacedPublisher) run(ctx context.Context, p pacing, span time.Duration) (delays, error) {
	// Over a socket, as agents do.
	nc, err := nats.Connect(b.s.server.ClientURL())
	if err != nil {
		return delays{}, fmt.Errorf("connect to NATS: %w", err)
	}
	defer nc.Close()
	pub, err := publisher.New(nc)
	if err != nil {
		return delays{}, err
	}
	watching, stop := context.WithCancel(ctx)
	group, watching := errgroup.WithContext(watching)
	seen := make([][]observation, b.s.Partitions)
	group.Go(func() error { return b.d.watchPositions(watching, seen) })
	published, err := b.publish(watching, pub, p, span)
	if err == nil {
		last := make(sequences, b.s.Partitions)
		for _, one := range published {
			last.note(one.partition, uint64(one.seq))
		}
		err = b.d.waitFor(watching, last)
	}
	stop()
	if failed := group.Wait(); failed != nil {
		return delays{}, failed
	}
	if err != nil {
		return delays{}, err
	}
	b.published += len(published)
	return delaysOf(published, seen)
}

func delaysOf(published []publication, seen [][]observation) (d delays, err error) {
	visible, err := delayOf(published, seen)
	if err != nil {
		return d, err
	}
	var acked []time.Duration
	first, last := published[0].at, published[0].at
	for _, p := range published {
		acked = append(acked, p.acked.Sub(p.at))
		if p.at.Before(first) {
			first = p.at
		}
		if p.at.After(last) {
			last = p.at
		}
	}
	d.rate = float64(len(published)) / last.Sub(first).Seconds()
	d.acked = [2]time.Duration{percentile(acked, 0.5), percentile(acked, 0.99)}
	d.visible = [2]time.Duration{percentile(visible, 0.5), percentile(visible, 0.99)}
	return d, nil
}

// watchEvery is how often positions are read, and so how much later than it
// happened a commit may be seen.
const watchEvery = time.Millisecond

// watchPositions notes when each partition's position is seen to have moved,
// until ctx ends; then it reads them once more, so that nothing counted is unseen.
func (d *database) watchPositions(ctx context.Context, seen [][]observation) error {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for ctx.Err() == nil {
		if err := d.observePositions(ctx, seen); err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), cli.DependencyTimeout)
	defer cancel()
	return d.observePositions(last, seen)
}

func (d *database) observePositions(ctx context.Context, seen [][]observation) error {
	now := make(sequences, len(seen))
	if err := d.readPositions(ctx, now); err != nil {
		return err
	}
	at := time.Now()
	for p, seq := range now {
		if n := len(seen[p]); n == 0 || seen[p][n-1].seq != seq {
			seen[p] = append(seen[p], observation{at, seq})
		}
	}
	return nil
}

// publish publishes for a while. Each publisher has its own slots in time,
// evenly between those of the others; one that is late goes on at once.
func (b *pacedPublisher) publish(ctx context.Context, pub *publisher.Publisher, p pacing, span time.Duration) ([]publication, error) {
	var mu sync.Mutex
	var all []publication
	group, ctx := errgroup.WithContext(ctx)
	slot := time.Duration(p.batch) * time.Second / time.Duration(p.rate)
	calls := int(span / slot)
	begin := time.Now()
	for one := range p.publishers {
		group.Go(func() error {
			var own []publication
			for call := one; call < calls; call += p.publishers {
				if err := odometer.Sleep(ctx, time.Until(begin.Add(time.Duration(call)*slot))); err != nil {
					return err
				}
				sent, err := b.publishOnce(ctx, pub, b.published+call*p.batch, p.batch)
				if err != nil {
					return err
				}
				own = append(own, sent...)
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, own...)
			return nil
		})
	}
	return all, group.Wait()
}

func (b *pacedPublisher) publishOnce(ctx context.Context, pub *publisher.Publisher, from, n int) ([]publication, error) {
	events := make([]publisher.Event, n)
	for i := range events {
		events[i] = b.work.event(from + i)
	}
	at := time.Now()
	results, err := publishAll(ctx, pub, events, make(sequences, b.s.Partitions))
	acked := time.Now()
	if err != nil {
		return nil, fmt.Errorf("publish at an even pace: %w", err)
	}
	sent := make([]publication, n)
	for i, r := range results {
		sent[i] = publication{at, acked, odometer.PartitionOf(events[i].Tenant, b.s.Partitions), int64(r.Ack.Seq)}
	}
	return sent, nil
}

// latencyLine is a pacing's line in the table, in milliseconds from the call that
// published an event.
type latencyLine struct {
	Published     string  `json:"published" column:"latency, ms"`
	PerSecond     float64 `json:"events_per_second" column:"events/s;thousands"`
	StoredP50     float64 `json:"acknowledged_p50_ms" column:"acknowledged p50;%.1f"`
	StoredP99     float64 `json:"acknowledged_p99_ms" column:"p99;%.1f"`
	VisibleP50    float64 `json:"visible_p50_ms" column:"visible p50;%.1f"`
	VisibleP99    float64 `json:"visible_p99_ms" column:"p99;%.1f"`
	WorstRoundP99 float64 `json:"visible_p99_ms_worst_round" column:"p99, worst round;%.1f"`
}

const latencyNote = `From the call that publishes: acknowledged when it returns, which is after the stream's sync; visible when another
connection sees the transaction that counted the event, found by asking every millisecond. Publisher, NATS, aggregator
and Postgres share this machine.`

func latencyLineOf(p pacing, all []delays) latencyLine {
	of := func(get func(delays) time.Duration) float64 {
		return median(all, func(d delays) float64 { return milliseconds(get(d)) })
	}
	line := latencyLine{
		Published:  p.name,
		PerSecond:  median(all, func(d delays) float64 { return d.rate }),
		StoredP50:  of(func(d delays) time.Duration { return d.acked[0] }),
		StoredP99:  of(func(d delays) time.Duration { return d.acked[1] }),
		VisibleP50: of(func(d delays) time.Duration { return d.visible[0] }),
		VisibleP99: of(func(d delays) time.Duration { return d.visible[1] }),
	}
	for _, d := range all {
		line.WorstRoundP99 = max(line.WorstRoundP99, milliseconds(d.visible[1]))
	}
	return line
}
