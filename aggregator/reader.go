package aggregator

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"odometer/aggregator/position"
	"odometer/ingest"
)

// How often workers hear how far the stream was read, and how often the
// stream's end is polled.
const (
	markEvery = 100 * time.Millisecond
	pollEvery = 500 * time.Millisecond
	stuckFor  = 10 // polls without progress although the stream holds more
)

// clockSlack is taken off the server's time in a replicated stream, where a
// message gets its time before the quorum has it.
const clockSlack = 5 * time.Second

// streamEnd is what one poll showed of the stream.
type streamEnd struct {
	first, last int64
	dispatched  int64     // the sequence that had been dispatched before the poll
	before      time.Time // the server's time before the poll: all stored by then is at or before last
}

// reader reads the stream once for all partitions of the process and dispatches
// the messages to the partitions' workers. One goroutine (run) owns its state.
type reader struct {
	a       *Aggregator
	at      *attached
	workers []*worker // by partition; nil where another process reads
	ends    chan streamEnd

	through    position.Mark // the last message that was dispatched
	dispatched atomic.Int64  // its sequence, for poll
	stuck      int           // polls without progress
}

func (a *Aggregator) newReader(at *attached, held map[int]bool) *reader {
	r := &reader{
		a: a, at: at,
		workers: make([]*worker, at.partitions),
		ends:    make(chan streamEnd),
	}
	for p := range held {
		r.workers[p] = a.newWorker(p, at)
	}
	return r
}

// run consumes and dispatches until ctx ends or a message is missing.
func (r *reader) run(ctx context.Context) error {
	r.through.Seq = r.committed()
	stream, err := ingest.OpenReader(ctx, r.a.NATS, r.at.stream, ingest.ReadOptions{From: r.through.Seq + 1})
	if err != nil {
		return natsError(err)
	}
	defer stream.Close()
	ticker := time.NewTicker(markEvery)
	defer ticker.Stop()
	marked := r.through.Seq
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
			if err := r.dispatch(ctx, m); err != nil {
				return err
			}
		case end := <-r.ends:
			if err := r.reachedEnd(ctx, end); err != nil {
				return err
			}
		case <-ticker.C:
			if err := stream.KeepAlive(); err != nil {
				return natsError(err)
			}
			if r.through.Seq > marked {
				marked = r.through.Seq
				r.markAll(ctx, r.through)
			}
		}
	}
}

// dispatch hands a message to its partition's worker. It waits for a busy one:
// that is how a slow database slows the reading.
func (r *reader) dispatch(ctx context.Context, m *ingest.Message) error {
	r.stuck = 0
	r.through = position.Mark{Seq: m.Position.Seq, StoredAt: m.StoredAt}
	r.dispatched.Store(r.through.Seq)
	if m.Partition < 0 || m.Partition >= len(r.workers) {
		return fmt.Errorf("%w: message %d has subject %q, which stream %s cannot have made: check its subject transform",
			ErrUnfit, r.through.Seq, m.Subject, ingest.StreamName)
	}
	w := r.workers[m.Partition]
	if w == nil || r.through.Seq <= w.begin {
		return nil
	}
	m.Position = r.at.state.Epochs.Of(r.through.Seq)
	w.enqueue(ctx, delivery{message: m})
	return nil
}

// reachedEnd compares what was dispatched with the stream's end. What is read
// through to there is complete until the server's time before the poll.
func (r *reader) reachedEnd(ctx context.Context, end streamEnd) error {
	if end.last < end.dispatched {
		return natsError(fmt.Errorf("%w: it ends at %d, but was read through %d", errStream, end.last, end.dispatched))
	}
	if end.first > r.through.Seq+1 && end.first > end.last {
		r.through = position.Mark{Seq: end.last} // everything has aged out; there is nothing left to read
	}
	if r.through.Seq < end.last {
		if r.stuck++; r.stuck > stuckFor {
			return natsError(fmt.Errorf("%w: nothing came after %d although the stream ends at %d", ingest.ErrGap, r.through.Seq, end.last))
		}
	}
	r.a.Metrics.lag.Set(float64(end.last - r.committed()))
	if r.through.Seq >= end.last {
		complete := r.through
		complete.Complete = end.before.UTC().Truncate(time.Microsecond)
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

func (r *reader) markAll(ctx context.Context, m position.Mark) {
	for _, w := range r.workers {
		if w != nil && m.Seq >= w.begin {
			w.enqueue(ctx, delivery{mark: m})
		}
	}
}

// poll asks for the stream's end again and again. The order matters: first the
// server's time, by the answer before, then the last sequence.
func (r *reader) poll(ctx context.Context) error {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	var before time.Time
	for {
		dispatched := r.dispatched.Load()
		info, err := r.streamInfo(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if !before.IsZero() {
			end := streamEnd{first: int64(info.State.FirstSeq), last: int64(info.State.LastSeq), dispatched: dispatched, before: before}
			select {
			case r.ends <- end:
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

func (r *reader) streamInfo(ctx context.Context) (*jetstream.StreamInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	info, err := r.at.stream.Info(ctx)
	if err != nil {
		return nil, natsError(fmt.Errorf("read the state of stream %s: %w", ingest.StreamName, err))
	}
	if !position.Created(info).Equal(r.at.state.Epochs.Last().StreamCreated) {
		return nil, natsError(fmt.Errorf("%w: it was created again", errStream))
	}
	ratio := 0.0
	if info.Config.MaxBytes > 0 {
		ratio = float64(info.State.Bytes) / float64(info.Config.MaxBytes)
	}
	r.a.Metrics.fill.Set(ratio)
	return info, nil
}
