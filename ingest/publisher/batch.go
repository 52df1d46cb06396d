package publisher

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

const (
	// batchMessages is the server's limit for one atomic batch.
	batchMessages = 1000

	// batchBytes keeps a batch of large payloads from filling a connection.
	batchBytes = 4 << 20

	// batchWorth is the fewest messages that make a batch worth its cost to the
	// server, which keeps it in files of its own until it is complete: fewer are
	// stored sooner one by one.
	batchWorth = 20
)

// Result is what became of one event of a batch.
type Result struct {
	Key string // idempotency_key
	Ack Ack    // when Err is nil
	Err error  // a *Rejection: not valid, not sent; any other as from Publish
}

// PublishBatch publishes many events, in atomic batches of at most 1,000: one
// sync of the server's disk for all of them. (A few go one by one in their
// order, which is faster.) Results are in the order of events. The error is the
// first that is no Rejection: with it, some events may be stored and others
// not, as the results say; publishing all of them again is safe. Events that
// are the same bytes are sent once; the later ones are duplicates of the first.
func (p *Publisher) PublishBatch(ctx context.Context, events []Event) ([]Result, error) {
	now := time.Now()
	return publishBatch(ctx, len(events), p.sendBatch, func(i int) (message, *Rejection) {
		raw, rejection := Encode(events[i], now)
		if rejection != nil {
			return message{key: raw.Key}, rejection
		}
		return raw.message()
	})
}

// PublishRawBatch is PublishBatch for payloads that are encoded already.
func (p *Publisher) PublishRawBatch(ctx context.Context, raws []Raw) ([]Result, error) {
	return publishBatch(ctx, len(raws), p.sendBatch, func(i int) (message, *Rejection) { return raws[i].message() })
}

// PublishGrouped is PublishRawBatch for many callers at once, by group commit:
// what they publish at the same time shares atomic batches, and so the cost of
// each.
func (p *Publisher) PublishGrouped(ctx context.Context, raws []Raw) ([]Result, error) {
	return publishBatch(ctx, len(raws), p.sendGrouped, func(i int) (message, *Rejection) { return raws[i].message() })
}

// publishBatch publishes the n messages that at makes or rejects.
func publishBatch(ctx context.Context, n int, send func(context.Context, *batch), at func(int) (message, *Rejection)) ([]Result, error) {
	results := make([]Result, n)
	b := newBatch(n)
	for i := range results {
		m, rejection := at(i)
		results[i].Key = m.key
		if rejection != nil {
			results[i].Err = rejection
			continue
		}
		if b.full(len(m.payload)) {
			send(ctx, b)
			b = newBatch(n - i)
		}
		b.add(m, &results[i])
	}
	send(ctx, b)
	return results, firstError(results)
}

// firstError is the first error that says that a valid event may not be stored.
func firstError(results []Result) error {
	for _, r := range results {
		var rejection *Rejection
		if r.Err != nil && !errors.As(r.Err, &rejection) {
			return r.Err
		}
	}
	return nil
}

// batch collects messages, each once, and where their results go.
type batch struct {
	messages []message
	results  []*Result // of messages, index by index
	repeats  []repeat
	index    map[string]int // by message id
	bytes    int
}

// repeat is a message that is the same as an earlier one of its batch.
type repeat struct {
	of     int
	result *Result
}

// newBatch is a batch with room for so many messages, as far as a batch has it.
func newBatch(room int) *batch {
	room = min(room, batchMessages)
	return &batch{messages: make([]message, 0, room), results: make([]*Result, 0, room), index: make(map[string]int, room)}
}

func (b *batch) full(payload int) bool {
	return len(b.messages) == batchMessages || len(b.messages) > 0 && b.bytes+payload > batchBytes
}

func (b *batch) add(m message, result *Result) {
	if first, ok := b.index[m.id]; ok {
		b.repeats = append(b.repeats, repeat{first, result})
		return
	}
	b.index[m.id] = len(b.messages)
	b.messages = append(b.messages, m)
	b.results = append(b.results, result)
	b.bytes += len(m.payload)
}

// acknowledge counts back from the last sequence: a batch lies in the stream
// without a gap, in its own order.
func (b *batch) acknowledge(last uint64) {
	for i, r := range b.results {
		r.Ack = Ack{Seq: last - uint64(len(b.results)-1-i)}
	}
}

// fail gives every message of the batch the same error.
func (b *batch) fail(err error) {
	for i, r := range b.results {
		r.Err = fmt.Errorf("publish %s, key %q, in a batch of %d: %w", b.messages[i].subject, b.messages[i].key, len(b.messages), err)
	}
}

func (b *batch) copyToRepeats() {
	for _, r := range b.repeats {
		first := b.results[r.of]
		r.result.Ack, r.result.Err = first.Ack, first.Err
		r.result.Ack.Duplicate = first.Err == nil
	}
}

// stored reports whether every message has its acknowledgement.
func (b *batch) stored() bool {
	for _, r := range b.results {
		if r.Err != nil {
			return false
		}
	}
	return true
}

// sendBatch publishes a batch until the stream holds it, or fills in why not.
func (p *Publisher) sendBatch(ctx context.Context, b *batch) {
	switch n := len(b.messages); {
	case n == 0:
		return
	case n == 1:
		b.results[0].Ack, b.results[0].Err = p.send(ctx, b.messages[0])
	case n < batchWorth:
		p.sendOneByOne(ctx, b)
	default:
		p.sendAtomically(ctx, b)
	}
	b.copyToRepeats()
}

// sendOneByOne publishes messages until the stream holds them, in their order.
// What is not stored at the first attempt, which waits for none before the next,
// goes on alone.
func (p *Publisher) sendOneByOne(ctx context.Context, b *batch) {
	watched, stop := p.denials.watch(ctx, b)
	p.sendSingly(watched, b)
	stop()
	for i, r := range b.results {
		if r.Err != nil {
			r.Ack, r.Err = p.send(ctx, b.messages[i])
		}
	}
}

// sendSingly publishes the batches' messages in their order and waits for none
// before the next: the server takes them as they come on the connection.
func (p *Publisher) sendSingly(ctx context.Context, batches ...*batch) {
	var waits []func()
	for _, b := range batches {
		for i, r := range b.results {
			var wire nats.Msg
			b.messages[i].write(&wire)
			sent, err := p.js.PublishMsgAsync(&wire, jetstream.WithRetryAttempts(0))
			if err != nil {
				r.Err = err
				continue
			}
			waits = append(waits, func() { r.Ack, r.Err = answer(ctx, sent) })
		}
	}
	for _, wait := range waits {
		wait()
	}
}

// answer waits for the stream's answer to one message.
func answer(ctx context.Context, sent jetstream.PubAckFuture) (Ack, error) {
	select {
	case ack := <-sent.Ok():
		return Ack{Seq: ack.Sequence, Duplicate: ack.Duplicate}, nil
	case err := <-sent.Err():
		return Ack{}, err
	case <-ctx.Done():
		return Ack{}, context.Cause(ctx)
	}
}

func (p *Publisher) sendAtomically(ctx context.Context, b *batch) {
	watched, stop := p.denials.watch(ctx, b)
	defer stop()
	retry := retry{silence: p.attempt}
	for again := false; ; again = true {
		last, err := p.sendBatchOnce(watched, b)
		if err == nil {
			b.acknowledge(last)
			return
		}
		if mustSplit(err, again) {
			break
		}
		if err = retry.next(watched, err); errors.Is(err, ErrNotPermitted) {
			break
		} else if err != nil {
			b.fail(err)
			return
		}
	}
	p.sendOneByOne(ctx, b)
}

// sendBatchOnce sends batches as one atomic batch, in their order, and returns
// the sequence of the last message. Only the commit is acknowledged; it waits
// for no other answer, which would be a round trip that a denied message never
// ends.
func (p *Publisher) sendBatchOnce(ctx context.Context, batches ...*batch) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, p.attempt)
	defer cancel()
	together, err := jetstreamext.NewBatchPublisher(p.js, jetstreamext.BatchFlowControl{AckFirst: false})
	if err != nil {
		return 0, err
	}
	var wire nats.Msg // one for all: the connection copies what it is given
	held := false
	for _, b := range batches {
		for i := range b.messages {
			if held {
				if err := together.AddMsg(&wire); err != nil {
					return 0, err
				}
			}
			b.messages[i].write(&wire)
			held = true
		}
	}
	ack, err := together.CommitMsg(ctx, &wire)
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

// mustSplit reports whether the messages of a refused batch must go one by one,
// so that each gets an answer of its own. The server refuses a whole batch for
// one message, such as one that it holds already after a lost acknowledgement.
// An incomplete batch may only have met a restart, so it is sent again first.
func mustSplit(err error, again bool) bool {
	var api *jetstream.APIError
	if errors.As(err, &api) && api.ErrorCode == codeIncomplete {
		return again
	}
	return classify(err) == final || errors.Is(err, jetstreamext.ErrInvalidBatchAck)
}
