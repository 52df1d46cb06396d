package aggregator

import (
	"context"
	"sync/atomic"
	"time"

	"odometer"
	"odometer/aggregator/apply"
	"odometer/aggregator/position"
	"odometer/ingest"
)

// delivery is a message for a partition or, without one, how far the stream was
// read.
type delivery struct {
	message *ingest.Message
	mark    position.Mark
}

// batch is a run of a partition's messages, and how far the stream was read
// with them.
type batch struct {
	position.Mark
	items []apply.Item
	bytes int
}

// maxBatchBytes bounds a batch of large messages, and with it the memory.
const maxBatchBytes = 8 << 20

func (b *batch) addItem(i *apply.Item) {
	b.items = append(b.items, *i)
	b.bytes += i.Message.Bytes()
	b.addMark(markAt(i))
}

// markAt says that everything up to an item was read.
func markAt(i *apply.Item) position.Mark {
	return position.Mark{Seq: i.Event.Position.Seq, StoredAt: i.Event.RecordedAt}
}

func (b *batch) addMark(m position.Mark) {
	if m.Complete.IsZero() {
		m.Complete = b.Complete // an older promise still holds
	}
	b.Mark = m
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

// worker is one partition's part of a session: collect decodes and gathers the
// messages, commitAll commits them.
type worker struct {
	a         *Aggregator
	partition int
	begin     int64 // messages up to here were committed before this session
	in        chan delivery
	ready     chan *batch
	committed atomic.Int64

	// Of commitAll:
	at        odometer.Position
	applier   *apply.Applier
	lastDead  odometer.Position // no message after it is a dead letter, except by this session
	repeating bool              // most of the last batch were duplicates

	// Of collect:
	written time.Time // when the last batch was handed over
	passed  int64     // its sequence
	size    int       // and its messages
}

func (a *Aggregator) newWorker(partition int, at *attached) *worker {
	from := at.state.Partitions[partition].At
	w := &worker{
		a: a, partition: partition, begin: from.Seq,
		in:    make(chan delivery, 256),
		ready: make(chan *batch),
		at:    from, lastDead: at.lastDead,
		applier: &apply.Applier{Pool: a.Pool, Partition: partition, Now: a.Now, Since: at.firstTime.Add(-odometer.MaxAge)},
	}
	w.committed.Store(from.Seq)
	return w
}

// enqueue accepts a delivery, as soon as there is room.
func (w *worker) enqueue(ctx context.Context, d delivery) {
	select {
	case w.in <- d:
	case <-ctx.Done():
	}
}

// collect gathers the next batch while the last one commits, and hands it over
// as soon as the committer is idle.
func (w *worker) collect(ctx context.Context) error {
	defer close(w.ready)
	next := &batch{}
	var held *apply.Item // a correction that waits for the batch before it
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wait := w.wait(next, held != nil)
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
		case d := <-in:
			held = w.gather(d, next)
		case out <- next:
			w.written, w.passed, w.size = time.Now(), next.Seq, len(next.items)
			next = &batch{items: make([]apply.Item, 0, len(next.items))} // the next is likely as large
			if held != nil {
				next.addItem(held)
				held = nil
			}
		case <-timer.C:
		}
	}
}

// gatheredAtOnce bounds how long the committer, if it is idle, waits for what
// is gathered without offering it.
const gatheredAtOnce = 64

// gather adds a message to the batch, and with it others that wait already. It
// returns one that must wait for the batch before it.
func (w *worker) gather(d delivery, b *batch) (held *apply.Item) {
	for n := 1; ; n++ {
		if d.message == nil {
			b.addMark(d.mark)
		} else {
			i := apply.Decode(d.message)
			if len(b.items) > 0 && (i.Correction() || b.items[0].Correction()) {
				waiting := i // a copy, so that not each item is allocated
				return &waiting
			}
			b.addItem(&i)
		}
		if n == gatheredAtOnce || w.full(b) {
			return nil
		}
		select {
		case d = <-w.in:
		default:
			return nil
		}
	}
}

func (w *worker) full(b *batch) bool {
	return len(b.items) >= w.a.BatchSize || b.bytes >= maxBatchBytes
}

// wait is how long the batch should still wait for more.
func (w *worker) wait(b *batch, urgent bool) time.Duration {
	since := time.Since(w.written)
	switch {
	case urgent || w.full(b):
		return 0
	case len(b.items) > 0 && w.size >= dense:
		return denseLinger - since
	case len(b.items) > 0:
		return linger - since
	case b.Seq > w.passed && b.Seq > 0:
		return passEvery - since
	case !b.Complete.IsZero():
		return quietEvery - since
	default:
		return time.Hour
	}
}
