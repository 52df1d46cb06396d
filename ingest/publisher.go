package ingest

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Ack is the stream's word that it holds an event.
type Ack struct {
	Seq       uint64 // where it lies in the stream
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

// NewPublisher makes a publisher on a connection, one for its life: it puts
// itself in front of the connection's error handler, because that is the only
// place where the server tells a missing permission. A handler that is set
// later, in its place, makes such a publish wait until its context ends.
func NewPublisher(nc *nats.Conn, opts ...Option) (*Publisher, error) {
	p := &Publisher{attempt: 5 * time.Second, denials: &denials{waiting: map[int]waiter{}}}
	for _, opt := range opts {
		opt(p)
	}
	var err error
	if p.js, err = jetstream.New(nc, jetstream.WithPublishAsyncTimeout(p.attempt)); err != nil {
		return nil, fmt.Errorf("make a publisher: %w", err)
	}
	p.denials.hear(nc)
	return p, nil
}

// Connected reports whether the server can be reached at this moment. While it
// cannot, a publish waits for it as long as its context allows.
func (p *Publisher) Connected() bool { return p.js.Conn().IsConnected() }

// Publish encodes an event, validates it as the reader of the stream will, and
// returns when the stream has stored it.
//
// It repeats the same bytes, with growing pauses, until the stream answers or
// ctx ends, and then says that the outcome is unknown: publish the same event
// again. Give ctx a deadline. What a repeat cannot heal it returns at once: an
// *odometer.Rejection for an event that is not valid (nothing was sent),
// ErrStreamFull, ErrNoStream, ErrNotPermitted, or the server's own refusal.
func (p *Publisher) Publish(ctx context.Context, e Event) (Ack, error) {
	raw, rejection := e.raw()
	if rejection != nil {
		return Ack{}, rejection
	}
	return p.PublishRaw(ctx, raw)
}

// PublishRaw is Publish for a payload that is encoded already; its own bytes
// are sent.
func (p *Publisher) PublishRaw(ctx context.Context, r Raw) (Ack, error) {
	o, rejection := address(r, time.Now())
	if rejection != nil {
		return Ack{}, rejection
	}
	return p.send(ctx, o)
}

// send publishes one message until the stream holds it.
func (p *Publisher) send(ctx context.Context, o outgoing) (Ack, error) {
	ctx, stop := p.denials.watch(ctx, &batch{messages: []outgoing{o}})
	defer stop()
	retry := patience{silence: p.attempt}
	for {
		ack, err := p.sendOnce(ctx, o)
		if err == nil {
			return ack, nil
		}
		if err := retry.next(ctx, err); err != nil {
			return Ack{}, fmt.Errorf("publish %s, key %q: %w", o.subject, o.key, err)
		}
	}
}

func (p *Publisher) sendOnce(ctx context.Context, o outgoing) (Ack, error) {
	ctx, cancel := context.WithTimeout(ctx, p.attempt)
	defer cancel()
	// The library's own retry would hide from patience that nobody listens.
	var wire nats.Msg
	o.write(&wire)
	ack, err := p.js.PublishMsg(ctx, &wire, jetstream.WithRetryAttempts(0))
	if err != nil {
		return Ack{}, err
	}
	return Ack{Seq: ack.Sequence, Duplicate: ack.Duplicate}, nil
}
