package aggregator

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

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

	through mark         // the last message that was dealt
	dealt   atomic.Int64 // its sequence, for poll
	stuck   int
}

func (a *Aggregator) newReader(at *attached, held map[int]bool) *reader {
	r := &reader{
		a: a, at: at,
		workers: make([]*worker, at.partitions),
		looks:   make(chan look),
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
	stream, err := ingest.OpenReader(ctx, r.a.NATS, r.at.stream, ingest.ReadOptions{From: r.through.seq + 1})
	if err != nil {
		return natsError(err)
	}
	defer stream.Close()
	ticker := time.NewTicker(markEvery)
	defer ticker.Stop()
	marked := r.through.seq
	for {
		select {
		case <-ctx.Done():
			return nil
		case msg := <-stream.Arrived():
			m, err := stream.Accept(msg)
			if err != nil {
				return natsError(err)
			}
			if m == nil {
				continue
			}
			if err := r.deal(ctx, m); err != nil {
				return err
			}
		case l := <-r.looks:
			if err := r.see(ctx, l); err != nil {
				return err
			}
		case <-ticker.C:
			if err := stream.KeepAlive(); err != nil {
				return natsError(err)
			}
			if r.through.seq > marked {
				marked = r.through.seq
				r.markAll(ctx, r.through)
			}
		}
	}
}

// deal hands a message to its partition's worker. It waits for a busy one:
// that is how a slow database slows the reading.
func (r *reader) deal(ctx context.Context, m *ingest.Message) error {
	r.stuck = 0
	r.through = mark{seq: m.Position.Seq, storedAt: m.StoredAt}
	r.dealt.Store(r.through.seq)
	if m.Partition < 0 || m.Partition >= len(r.workers) {
		return fmt.Errorf("%w: message %d has subject %q, which stream %s cannot have made: check its subject transform",
			ErrUnfit, r.through.seq, m.Subject, ingest.StreamName)
	}
	w := r.workers[m.Partition]
	if w == nil || r.through.seq <= w.begin {
		return nil
	}
	m.Position = r.at.epochs.of(r.through.seq)
	return w.take(ctx, item{mark: r.through, message: m})
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
			return natsError(fmt.Errorf("%w: nothing came after %d although the stream ends at %d", ingest.ErrGap, r.through.seq, l.last))
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
