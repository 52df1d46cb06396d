// Package publisher is what an agent in Go publishes its usage events with. It
// imports no other package of Odometer, because it becomes the Go SDK.
//
// # What it guarantees
//
//   - Published means stored: Publish returns an Ack only after the stream has
//     stored the message, and synced it where the server runs with
//     `sync_interval: always`.
//   - The same bytes on the same subject are stored once within the stream's
//     duplicate window: the message id is a hash of both (MessageID). After the
//     window a repeat is stored again, and counted once by its key.
//   - Nothing is dropped: what cannot be stored now is an error, and the event
//     stays with its sender.
//   - What is not a valid event is a Rejection and is not sent. PublishRaw and
//     its relatives send the caller's bytes and check only subject and size.
//
// # For the author of an agent
//
// An action must be counted once, whatever crashes. That takes one habit:
// make the event, its idempotency key above all, and store it before you act;
// after that, only ever publish what you stored.
//
//  1. Choose the key, from the action where it has an identity of its own
//     (such as "email:" and the message's id), else at random. Write the event,
//     with its key and OccurredAt, where it survives a crash, best in the
//     transaction that records the action as begun. An Event that went through
//     encoding/json is still published as the same bytes.
//  2. Act.
//  3. Publish the stored event. When Publish returns nil, mark it published.
//     On any other error but a Rejection keep it, and publish it again later.
//  4. After a restart, publish every event that is not marked and whose action
//     took place. A repeat is counted once, for 90 days.
//
// An event that is made anew for a retry has another key, and is another event.
// The example Journal is all of this with a file.
//
// Connect with nats.MaxReconnects(-1), so that a restart of the server is not
// the end of the agent, and with credentials of the agent's tenant. Make one
// Publisher for the connection, and give each call a context with a deadline.
//
// # What an error asks for
//
//   - A *Rejection: the event is not valid and was not sent. No repeat will
//     help; fix the agent. Encode says the same in the agent's tests.
//   - ErrStreamFull: back-pressure. Keep the event, begin no new work, and
//     publish it again after a pause.
//   - ErrNoStream, ErrNotPermitted: the set-up is wrong. Keep the event and
//     inform an operator.
//   - Any other: the outcome is unknown. Keep the event and publish it again.
//
// Agents do not send corrections: a wrong event stays, since the stream is the
// evidence, and an operator corrects it with `odometer adjust`. A Publisher can
// send them (Event.Adjustment); the credentials of an agent should not allow it.
//
// Agents in other languages do the same with any NATS client, or over HTTP:
// deploy/examples has Python, TypeScript and curl.
package publisher

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Ack says where the stream has stored an event.
type Ack struct {
	Seq       uint64 // its sequence in the stream
	Duplicate bool   // the stream held these very bytes already, within its short window
}

// Publisher publishes events to the stream. All its methods may be called from
// many goroutines.
type Publisher struct {
	js      jetstream.JetStream
	attempt time.Duration
	denials *denials
	group   group
}

// Option changes a Publisher.
type Option func(*Publisher)

// AttemptTimeout is how long one attempt waits for the stream's answer before
// the same bytes are sent again; 5 seconds unless set. It is also how long a
// server where no stream listens is taken for one that is still starting.
func AttemptTimeout(d time.Duration) Option {
	return func(p *Publisher) { p.attempt = d }
}

// New makes a publisher on a connection, one for its life: it puts itself in
// front of the connection's error handler, because only there the server
// reports a missing permission. With a handler that is set later, in its place,
// such a publish waits until its context ends.
func New(nc *nats.Conn, opts ...Option) (*Publisher, error) {
	p := &Publisher{attempt: 5 * time.Second, denials: &denials{publishes: map[int]publish{}}}
	for _, opt := range opts {
		opt(p)
	}
	var err error
	if p.js, err = jetstream.New(nc, jetstream.WithPublishAsyncTimeout(p.attempt)); err != nil {
		return nil, fmt.Errorf("make a publisher: %w", err)
	}
	p.denials.handleErrors(nc)
	return p, nil
}

// Connected reports whether the server can be reached at this moment. While it
// cannot, a publish waits for it as long as its context allows.
func (p *Publisher) Connected() bool { return p.js.Conn().IsConnected() }

// Publish encodes and validates an event, and returns when the stream has
// stored it.
//
// It repeats the same bytes, with growing pauses, until the stream answers or
// ctx ends, and then says that the outcome is unknown: publish the same event
// again. Give ctx a deadline. What a repeat cannot heal it returns at once: a
// *Rejection for an event that is not valid (nothing was sent), ErrStreamFull,
// ErrNoStream, ErrNotPermitted, or the server's own refusal.
func (p *Publisher) Publish(ctx context.Context, e Event) (Ack, error) {
	raw, rejection := Encode(e, time.Now())
	if rejection != nil {
		return Ack{}, rejection
	}
	return p.PublishRaw(ctx, raw)
}

// PublishRaw is Publish for a payload that is encoded already. Its bytes are
// sent as they are, checked only for their size.
func (p *Publisher) PublishRaw(ctx context.Context, r Raw) (Ack, error) {
	m, rejection := r.message()
	if rejection != nil {
		return Ack{}, rejection
	}
	return p.send(ctx, m)
}

// send publishes one message until the stream holds it.
func (p *Publisher) send(ctx context.Context, m message) (Ack, error) {
	ctx, stop := p.denials.watch(ctx, &batch{messages: []message{m}})
	defer stop()
	retry := retry{silence: p.attempt}
	for {
		ack, err := p.sendOnce(ctx, m)
		if err == nil {
			return ack, nil
		}
		if err := retry.next(ctx, err); err != nil {
			return Ack{}, fmt.Errorf("publish %s, key %q: %w", m.subject, m.key, err)
		}
	}
}

func (p *Publisher) sendOnce(ctx context.Context, m message) (Ack, error) {
	ctx, cancel := context.WithTimeout(ctx, p.attempt)
	defer cancel()
	var wire nats.Msg
	m.write(&wire)
	// The library's own retry would hide from ours that no stream listens.
	ack, err := p.js.PublishMsg(ctx, &wire, jetstream.WithRetryAttempts(0))
	if err != nil {
		return Ack{}, err
	}
	return Ack{Seq: ack.Sequence, Duplicate: ack.Duplicate}, nil
}
