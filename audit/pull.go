package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"odometer/ingest"
)

// What one request to the server asks for, and for how long.
const (
	pullMessages = 8000
	pullBytes    = 16 << 20
	pullExpiry   = 30 * time.Second
	pullBeat     = time.Second
	consumerIdle = 10 * time.Minute // the server forgets our consumer after this
)

// errDropped means that messages were lost on their way to us.
var errDropped = errors.New("messages of the stream did not all arrive: run it again")

// pull reads the stream in order by an ephemeral consumer without
// acknowledgements. As the aggregator does, it asks the server itself: the
// client library takes any message with an empty payload and a header "Status"
// for a word of the server, and an agent could send one. What the server says
// comes on our inbox; a message of the stream comes on its subject.
type pull struct {
	nc       *nats.Conn
	consumer jetstream.Consumer
	sub      *nats.Subscription
	inbox    string
	next     string
	arrived  chan *nats.Msg
	asked    int
	reply    string
	open     int
	heard    time.Time
	expected uint64 // consumer sequence of the next message
	total    uint64 // messages that there were when it began: all that are asked for
	sought   bool   // it begins at a time: the first message tells where
}

// newPull opens a consumer that begins at a sequence, or at a time, and sees
// all subjects or the given ones.
func newPull(ctx context.Context, nc *nats.Conn, stream jetstream.Stream, from int64, since time.Time, subjects []string) (*pull, error) {
	config := jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: uint64(max(from, 1)),
		AckPolicy: jetstream.AckNonePolicy, InactiveThreshold: consumerIdle, MemoryStorage: true, Replicas: 1,
		FilterSubjects: subjects,
	}
	if !since.IsZero() {
		config.DeliverPolicy, config.OptStartSeq, config.OptStartTime = jetstream.DeliverByStartTimePolicy, 0, &since
	}
	consumer, err := stream.CreateConsumer(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("read stream %s: %w", ingest.StreamName, err)
	}
	p := &pull{
		nc: nc, consumer: consumer, inbox: nc.NewInbox(), expected: 1, sought: !since.IsZero(),
		total: consumer.CachedInfo().NumPending,
		// Room for everything that is under way: what does not fit is dropped.
		arrived: make(chan *nats.Msg, pullMessages+1024),
		next:    "$JS.API.CONSUMER.MSG.NEXT." + ingest.StreamName + "." + consumer.CachedInfo().Name,
	}
	if p.sub, err = nc.ChanSubscribe(p.inbox+".*", p.arrived); err != nil {
		return nil, fmt.Errorf("read stream %s: %w", ingest.StreamName, err)
	}
	return p, p.ask()
}

func (p *pull) stop(stream jetstream.Stream) {
	_ = p.sub.Unsubscribe()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = stream.DeleteConsumer(ctx, p.consumer.CachedInfo().Name) // else the server forgets it by itself
}

func (p *pull) ask() error {
	request, err := json.Marshal(map[string]int64{
		"batch": pullMessages, "max_bytes": pullBytes, "expires": int64(pullExpiry), "idle_heartbeat": int64(pullBeat),
	})
	if err != nil {
		return err
	}
	p.asked++
	p.reply = fmt.Sprintf("%s.%d", p.inbox, p.asked)
	p.open, p.heard = pullMessages, time.Now()
	if err := p.nc.PublishRequest(p.next, p.reply, request); err != nil {
		return fmt.Errorf("ask for messages: %w", err)
	}
	return nil
}

// receive returns the next message, or nil when the stream held no more when
// it began.
func (p *pull) receive(ctx context.Context) (*nats.Msg, *nats.MsgMetadata, error) {
	for p.expected <= p.total {
		msg, err := p.arrival(ctx)
		if err != nil {
			return nil, nil, err
		}
		if msg == nil {
			continue
		}
		if !strings.HasPrefix(msg.Subject, p.inbox+".") {
			return p.message(msg)
		}
		if done, err := p.obey(ctx, msg); done || err != nil {
			return nil, nil, err
		}
	}
	return nil, nil, nil
}

// arrival waits for whatever comes next. A request that ends exactly on its
// bytes ends without a word, and is asked again.
func (p *pull) arrival(ctx context.Context) (*nats.Msg, error) {
	select {
	case msg := <-p.arrived:
		return msg, nil
	default:
	}
	timer := time.NewTimer(3 * pullBeat)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case msg := <-p.arrived:
		return msg, nil
	case <-timer.C:
	}
	if time.Since(p.heard) > time.Minute {
		return nil, fmt.Errorf("read stream %s: %w", ingest.StreamName, nats.ErrTimeout)
	}
	heard := p.heard
	err := p.ask()
	p.heard = heard
	return nil, err
}

func (p *pull) message(msg *nats.Msg) (*nats.Msg, *nats.MsgMetadata, error) {
	meta, err := msg.Metadata()
	if err != nil {
		return nil, nil, fmt.Errorf("read stream %s: %w", ingest.StreamName, err)
	}
	if meta.Sequence.Consumer != p.expected {
		return nil, nil, errDropped
	}
	p.expected++
	if p.open%1000 == 0 {
		p.heard = time.Now()
	}
	if p.open--; p.open == 0 {
		return msg, meta, p.ask()
	}
	return msg, meta, nil
}

// obey does what the server's word asks for; done when it has nothing more.
func (p *pull) obey(ctx context.Context, msg *nats.Msg) (done bool, err error) {
	p.heard = time.Now()
	if msg.Subject != p.reply {
		return false, nil
	}
	status, word := msg.Header.Get("Status"), msg.Header.Get("Description")
	switch {
	case status == "100": // a heartbeat comes when there is nothing to send
		return p.drained(ctx)
	case status == "404", status == "408",
		status == "409" && (strings.Contains(word, "MaxBytes") || strings.Contains(word, "Batch Completed")):
		return false, p.ask()
	default:
		return false, fmt.Errorf("read stream %s: the server says %s %s", ingest.StreamName, status, word)
	}
}

// drained reports whether everything was delivered and has arrived.
func (p *pull) drained(ctx context.Context) (bool, error) {
	info, err := p.consumer.Info(ctx)
	if err != nil {
		return false, fmt.Errorf("read stream %s: %w", ingest.StreamName, err)
	}
	return info.NumPending == 0 && info.Delivered.Consumer == p.expected-1 && len(p.arrived) == 0, nil
}
