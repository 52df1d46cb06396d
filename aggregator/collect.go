package aggregator

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"odometer"
	"odometer/ingest"
)

// item is a message for a partition or, with none, just a mark.
type item struct {
	mark
	message *ingest.Message
	event   odometer.Event
	id      uuid.UUID           // the event's
	reject  *odometer.Rejection // why the message cannot be an event
	retried *retrial            // of a dead letter that is judged anew; nil for a message that is read
}

// correction reports whether the item may bring a balance below zero. Those
// are counted alone, in their turn: whether one is refused must depend on what
// lies before it in the stream, not on how the stream was cut into batches.
func (i *item) correction() bool {
	return i.reject == nil && i.event.Quantity < 0
}

// batch is a run of a partition's messages, and how far the stream was read
// with them.
type batch struct {
	items []item
	bytes int
	mark
}

// maxBatchBytes bounds a batch of large messages, and with it the memory.
const maxBatchBytes = 8 << 20

func (b *batch) add(i item) {
	if i.message != nil {
		b.items = append(b.items, i)
		b.bytes += i.message.Bytes()
	}
	if i.complete.IsZero() {
		i.complete = b.complete // an older promise still holds
	}
	b.mark = i.mark
}

// linger is the least time between two batches that are not full. A lone
// message is never held up by it; under load it keeps batches from being tiny.
// Where messages come densely a batch may wait longer for them: each costs
// Postgres and us a millisecond of processor, whatever is in it.
const (
	linger      = 5 * time.Millisecond
	denseLinger = 50 * time.Millisecond
	dense       = 100 // messages of the batch before
)

// Longest pauses between two writes of a position that only passes over other
// partitions' messages, and of one that only says that there were none.
const (
	passEvery  = time.Second
	quietEvery = 5 * time.Second
)

// worker brings one partition's messages into the books: collect decodes and
// gathers them, commitAll counts them.
type worker struct {
	a         *Aggregator
	partition int
	begin     int64 // messages up to here were committed before this session
	epochs    epochs
	in        chan item
	ready     chan *batch
	committed atomic.Int64

	// Of commitAll:
	at        odometer.Position
	rules     *ruleCache
	lastDead  odometer.Position // no dead letter lies behind, but those of this session
	repeating bool              // most of the last batch were repeats

	// Of collect:
	written time.Time // when the last batch was handed over
	passed  int64     // its sequence
	size    int       // and its messages
}

func (a *Aggregator) newWorker(partition int, at *attached) *worker {
	p := at.places[partition]
	w := &worker{
		a: a, partition: partition, begin: p.Seq, epochs: at.epochs,
		in:    make(chan item, 256),
		ready: make(chan *batch),
		at:    p.Position, lastDead: at.lastDead,
		rules: &ruleCache{partition: partition, since: at.firstTime.Add(-odometer.MaxAge)},
	}
	w.committed.Store(p.Seq)
	return w
}

// take accepts an item, as soon as there is room.
func (w *worker) take(ctx context.Context, i item) error {
	select {
	case w.in <- i:
		return nil
	case <-ctx.Done():
		return nil
	}
}

// collect gathers the next batch while the last one commits, and hands it over
// as soon as the committer is idle.
func (w *worker) collect(ctx context.Context) error {
	defer close(w.ready)
	next := &batch{}
	var held *item // a correction waits for the batch before it
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wait := w.due(next, held != nil)
		var out chan *batch
		if wait <= 0 {
			out = w.ready
		} else {
			timer.Reset(wait)
		}
		in := w.in
		if held != nil || w.full(next) {
			in = nil
		}
		select {
		case <-ctx.Done():
			return nil
		case i := <-in:
			held = w.gather(i, next)
		case out <- next:
			w.written, w.passed, w.size = time.Now(), next.seq, len(next.items)
			next = &batch{items: make([]item, 0, len(next.items))} // the next is likely as large
			if held != nil {
				next.add(*held)
				held = nil
			}
		case <-timer.C:
		}
	}
}

// gatheredAtOnce bounds how long the committer, if it is idle, waits for what
// is gathered without a look at it.
const gatheredAtOnce = 64

// gather adds an item to the batch, and with it others that wait already. It
// returns one that must wait for the batch before it.
func (w *worker) gather(i item, b *batch) (held *item) {
	for n := 1; ; n++ {
		w.decode(&i)
		if i.message != nil && len(b.items) > 0 && (i.correction() || b.items[0].correction()) {
			return &i
		}
		b.add(i)
		if n == gatheredAtOnce || w.full(b) {
			return nil
		}
		select {
		case i = <-w.in:
		default:
			return nil
		}
	}
}

func (w *worker) full(b *batch) bool {
	return len(b.items) >= w.a.BatchSize || b.bytes >= maxBatchBytes
}

// due is how long the batch should still wait for more.
func (w *worker) due(b *batch, urgent bool) time.Duration {
	since := time.Since(w.written)
	switch {
	case urgent || w.full(b):
		return 0
	case len(b.items) > 0 && w.size >= dense:
		return denseLinger - since
	case len(b.items) > 0:
		return linger - since
	case b.seq > w.passed && b.seq > 0:
		return passEvery - since
	case !b.complete.IsZero():
		return quietEvery - since
	default:
		return time.Hour
	}
}

// decode judges what a message says of itself. What it needs to know of the
// world is judged later, under the terms of its batch.
func (w *worker) decode(i *item) {
	if i.message == nil {
		return
	}
	i.event, i.reject = ingest.Decode(i.message)
	if i.reject == nil {
		i.id = i.event.ID()
	}
}
