package aggregator

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"odometer/ingest"
)

// What one request to the server asks for, and for how long.
const (
	pullMessages = 5000
	pullBytes    = 8 << 20
	pullExpiry   = 30 * time.Second
	pullBeat     = time.Second      // the server shows life this often
	consumerIdle = 30 * time.Second // the server forgets our consumer after this
)

// pull reads the stream by an ephemeral consumer without acknowledgements.
//
// It asks the server itself instead of leaving that to the client library,
// which takes any message with an empty payload and a header "Status" for a
// word of the server: an agent could send one and stop the reading for
// everyone. The server's own words come on our inbox; a message of the stream
// comes on its subject, whatever it says.
type pull struct {
	nc      *nats.Conn
	sub     *nats.Subscription
	inbox   string // each request has its own reply subject below it
	next    string // the subject that requests go to
	arrived chan *nats.Msg
	asked   int    // requests so far
	reply   string // the present request's
	open    int    // messages that it may still bring
	heard   time.Time
	pending uint64 // messages that the stream held for us when we began
}

// newPull opens a consumer that begins behind a sequence. (A filter per
// partition was measured several times slower than one reader for all.)
func newPull(ctx context.Context, nc *nats.Conn, stream jetstream.Stream, behind int64, narrow ...func(*jetstream.ConsumerConfig)) (*pull, error) {
	config := jetstream.ConsumerConfig{
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       uint64(behind + 1),
		AckPolicy:         jetstream.AckNonePolicy,
		InactiveThreshold: consumerIdle,
		MemoryStorage:     true,
		Replicas:          1,
	}
	for _, change := range narrow {
		change(&config)
	}
	consumer, err := stream.CreateConsumer(ctx, config)
	if err != nil {
		return nil, natsError(fmt.Errorf("read from sequence %d: %w", behind+1, err))
	}
	p := &pull{
		nc: nc, inbox: nc.NewInbox(), arrived: make(chan *nats.Msg, 256),
		next:    "$JS.API.CONSUMER.MSG.NEXT." + ingest.StreamName + "." + consumer.CachedInfo().Name,
		pending: consumer.CachedInfo().NumPending,
	}
	p.sub, err = nc.Subscribe(p.inbox+".*", func(msg *nats.Msg) {
		select {
		case p.arrived <- msg:
		case <-ctx.Done():
		}
	})
	if err != nil {
		return nil, natsError(fmt.Errorf("read from sequence %d: %w", behind+1, err))
	}
	// The requests bound what is under way; the library must not drop any of it.
	if err := p.sub.SetPendingLimits(-1, -1); err != nil {
		return nil, natsError(fmt.Errorf("read from sequence %d: %w", behind+1, err))
	}
	return p, p.ask()
}

func (p *pull) stop() { _ = p.sub.Unsubscribe() }

// ask requests the next messages.
func (p *pull) ask() error {
	request, err := json.Marshal(map[string]int64{
		"batch": pullMessages, "max_bytes": pullBytes,
		"expires": int64(pullExpiry), "idle_heartbeat": int64(pullBeat),
	})
	if err != nil {
		return err
	}
	p.asked++
	p.reply = fmt.Sprintf("%s.%d", p.inbox, p.asked)
	p.open, p.heard = pullMessages, time.Now()
	if err := p.nc.PublishRequest(p.next, p.reply, request); err != nil {
		return natsError(fmt.Errorf("ask for messages: %w", err))
	}
	return nil
}

// handled notes that a message of the stream was dealt with, and asks for more
// when it was the request's last.
func (p *pull) handled() error {
	p.heard = time.Now()
	if p.open--; p.open > 0 {
		return nil
	}
	return p.ask()
}

// fromServer reports whether a message is the server's word about a request.
func (p *pull) fromServer(msg *nats.Msg) bool { return strings.HasPrefix(msg.Subject, p.inbox+".") }

// obey does what the server's word asks for. Its last word on a request that
// has been followed by another changes nothing: else each would be renewed for
// ever beside its successor.
func (p *pull) obey(msg *nats.Msg) error {
	p.heard = time.Now()
	if msg.Subject != p.reply {
		return nil
	}
	status, word := msg.Header.Get("Status"), msg.Header.Get("Description")
	switch {
	case status == "100": // a heartbeat
		return nil
	case status == "404", status == "408",
		status == "409" && (strings.Contains(word, "MaxBytes") || strings.Contains(word, "Batch Completed")):
		return p.ask()
	default:
		return natsError(fmt.Errorf("read the stream: the server says %s %s", status, word))
	}
}

// revive asks again when the server has shown no life for too long: a request
// that ends exactly on its bytes ends without a word. A server that is gone is
// found by the looks at the stream.
func (p *pull) revive() error {
	if time.Since(p.heard) < 3*pullBeat {
		return nil
	}
	return p.ask()
}
