package aggregator

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"odometer/ingest"
)

// Pace of the marks that tell workers how far the stream was read, and of the
// looks at the stream's end.
const (
	markEvery = 100 * time.Millisecond
	lookEvery = 500 * time.Millisecond
	stuckFor  = 10 // looks without progress although the stream holds more
)

// clockSlack is taken off the server's time in a replicated stream, where a
// message gets its time before the quorum has it.
const clockSlack = 5 * time.Second

// mark says that everything of a partition up to seq was handed over.
type mark struct {
	seq      int64     // of the whole stream
	storedAt time.Time // of the message at seq; zero when it is not known
	complete time.Time // every message stored until then lies at or before seq; zero when not known
}

// look is what a glance at the stream's end showed.
type look struct {
	first, last int64
	dealt       int64     // what had been dealt before the glance
	before      time.Time // the server's time before the glance: all stored by then is at or before last
}

// reader reads the stream once for all partitions of the process and deals the
// messages to the partitions' workers. One goroutine (run) owns its state.
type reader struct {
	a       *Aggregator
	at      *attached
	workers []*worker // by partition; nil where another process reads
	looks   chan look

	through  mark         // the last message that was dealt
	dealt    atomic.Int64 // its sequence, for poll
	expected uint64       // consumer sequence of the next message
	stuck    int
}

func (a *Aggregator) newReader(at *attached, held map[int]bool) *reader {
	r := &reader{
		a: a, at: at,
		workers:  make([]*worker, at.partitions),
		looks:    make(chan look),
		expected: 1,
	}
	for p := range held {
		r.workers[p] = a.newWorker(p, at)
	}
	return r
}

// begin is the sequence through which all held partitions are read.
func (r *reader) begin() int64 {
	lowest := int64(-1)
	for _, w := range r.workers {
		if w != nil && (lowest < 0 || w.at.Seq < lowest) {
			lowest = w.at.Seq
		}
	}
	return lowest
}

// run consumes and deals until ctx ends or a message is missing.
func (r *reader) run(ctx context.Context) error {
	r.through.seq = r.begin()
	pull, err := newPull(ctx, r.a.NATS, r.at.stream, r.through.seq)
	if err != nil {
		return err
	}
	defer pull.stop()
	ticker := time.NewTicker(markEvery)
	defer ticker.Stop()
	marked := r.through.seq
	for {
		select {
		case <-ctx.Done():
			return nil
		case msg := <-pull.arrived:
			if err := r.receive(ctx, pull, msg); err != nil {
				return err
			}
		case l := <-r.looks:
			if err := r.see(ctx, l); err != nil {
				return err
			}
		case <-ticker.C:
			if err := pull.revive(); err != nil {
				return err
			}
			if r.through.seq > marked {
				marked = r.through.seq
				r.markAll(ctx, r.through)
			}
		}
	}
}

func (r *reader) receive(ctx context.Context, p *pull, msg *nats.Msg) error {
	if p.fromServer(msg) {
		return p.obey(msg)
	}
	if err := r.deal(ctx, msg); err != nil {
		return err
	}
	return p.handled()
}

// deal hands a message to its partition's worker. It waits for a busy one:
// that is how a slow database slows the reading.
func (r *reader) deal(ctx context.Context, msg *nats.Msg) error {
	meta, err := msg.Metadata()
	if err != nil {
		return natsError(fmt.Errorf("read the stream: %w", err))
	}
	if meta.Sequence.Consumer != r.expected {
		return natsError(fmt.Errorf("%w: after message %d", errGap, r.through.seq))
	}
	r.expected++
	r.stuck = 0
	r.through = mark{seq: int64(meta.Sequence.Stream), storedAt: meta.Timestamp.UTC().Truncate(time.Microsecond)}
	r.dealt.Store(r.through.seq)
	kind, partition, tenant, agent, ok := ingest.ParseStored(msg.Subject)
	if !ok || partition >= len(r.workers) {
		return fmt.Errorf("%w: message %d has subject %q, which stream %s cannot have made: check its subject transform",
			ErrUnfit, r.through.seq, msg.Subject, ingest.StreamName)
	}
	w := r.workers[partition]
	if w == nil || r.through.seq <= w.begin {
		return nil
	}
	return w.take(ctx, item{mark: r.through, message: &ingest.Message{
		Kind: kind, TenantToken: tenant, AgentToken: agent,
		Header: msg.Header, Data: msg.Data, StoredAt: r.through.storedAt,
		Position: r.at.epochs.of(r.through.seq),
	}})
}

// see learns where the stream ends. What is read through to there is complete
// until the server's time before the look.
func (r *reader) see(ctx context.Context, l look) error {
	if l.last < l.dealt {
		return natsError(fmt.Errorf("%w: it ends at %d, but was read through %d", errStream, l.last, l.dealt))
	}
	if l.first > r.through.seq+1 && l.first > l.last {
		r.through = mark{seq: l.last} // everything has aged out; there is nothing left to read
	}
	if r.through.seq < l.last {
		if r.stuck++; r.stuck > stuckFor {
			return natsError(fmt.Errorf("%w: nothing came after %d although the stream ends at %d", errGap, r.through.seq, l.last))
		}
	}
	r.a.Metrics.lag.Set(float64(l.last - r.committed()))
	if r.through.seq >= l.last {
		complete := r.through
		complete.complete = l.before.UTC().Truncate(time.Microsecond)
		r.markAll(ctx, complete)
	}
	return nil
}

// committed is the lowest position of the process's partitions.
func (r *reader) committed() int64 {
	lowest := int64(-1)
	for _, w := range r.workers {
		if w != nil {
			if seq := w.committed.Load(); lowest < 0 || seq < lowest {
				lowest = seq
			}
		}
	}
	return lowest
}

func (r *reader) markAll(ctx context.Context, m mark) {
	for _, w := range r.workers {
		if w != nil && m.seq >= w.begin {
			_ = w.take(ctx, item{mark: m}) // ends only with ctx
		}
	}
}

// poll looks at the stream's end again and again. The order matters: first the
// server's time, by the answer before, then the last sequence.
func (r *reader) poll(ctx context.Context) error {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	var before time.Time
	for {
		dealt := r.dealt.Load()
		info, err := r.look(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if !before.IsZero() {
			l := look{first: int64(info.State.FirstSeq), last: int64(info.State.LastSeq), dealt: dealt, before: before}
			select {
			case r.looks <- l:
			case <-ctx.Done():
				return nil
			}
		}
		before = info.TimeStamp
		if r.at.stream.Replicas > 1 {
			before = before.Add(-clockSlack)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (r *reader) look(ctx context.Context) (*jetstream.StreamInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	info, err := r.at.stream.Info(ctx)
	if err != nil {
		return nil, natsError(fmt.Errorf("look at stream %s: %w", ingest.StreamName, err))
	}
	if !created(info).Equal(r.at.epochs.last().StreamCreated) {
		return nil, natsError(fmt.Errorf("%w: it was made anew", errStream))
	}
	ratio := 0.0
	if info.Config.MaxBytes > 0 {
		ratio = float64(info.State.Bytes) / float64(info.Config.MaxBytes)
	}
	r.a.Metrics.fill.Set(ratio)
	return info, nil
}
