package ingest

import (
	"context"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// sendFew publishes a few messages until the stream holds them: one by one, in
// their order. What is not stored at the first attempt goes on alone.
func (p *Publisher) sendFew(ctx context.Context, b *batch) {
	watched, stop := p.denials.watch(ctx, b)
	p.sendFewOnce(watched, b)
	stop()
	for i, r := range b.results {
		if r.Err != nil {
			r.Ack, r.Err = p.send(ctx, b.messages[i])
		}
	}
}

// sendFewOnce publishes the batches' messages in their order and waits for none
// before the next: the server takes them as they come on the connection.
func (p *Publisher) sendFewOnce(ctx context.Context, batches ...*batch) {
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
			waits = append(waits, func() { r.Ack, r.Err = answered(ctx, sent) })
		}
	}
	for _, wait := range waits {
		wait()
	}
}

// answered waits for the stream's word.
func answered(ctx context.Context, sent jetstream.PubAckFuture) (Ack, error) {
	select {
	case ack := <-sent.Ok():
		return Ack{Seq: ack.Sequence, Duplicate: ack.Duplicate}, nil
	case err := <-sent.Err():
		return Ack{}, err
	case <-ctx.Done():
		return Ack{}, context.Cause(ctx)
	}
}
