package testenv

import (
	"context"
	"testing"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"odometer"
	"odometer/ingest"
	"odometer/ingest/natstest"
	"odometer/ingest/publisher"
)

// Stream is a NATS server with the USAGE stream, and a connection to it.
type Stream struct {
	t         testing.TB
	Server    *natstest.Server
	NATS      *nats.Conn
	JetStream jetstream.JetStream
	Publisher *publisher.Publisher
	Config    ingest.StreamConfig // what the stream was created with
}

// NewStream starts a NATS server and creates the stream.
func NewStream(t testing.TB, config ingest.StreamConfig, opts ...natstest.Option) *Stream {
	t.Helper()
	s := &Stream{t: t, Server: natstest.Run(t, opts...), Config: config}
	s.NATS = s.Server.Connect(t)
	var err error
	if s.JetStream, err = jetstream.New(s.NATS); err != nil {
		t.Fatal(err)
	}
	if s.Publisher, err = publisher.New(s.NATS); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := within()
	defer cancel()
	if _, err := ingest.EnsureStream(ctx, s.JetStream, config); err != nil {
		t.Fatal(err)
	}
	return s
}

// within bounds one call. It does not end with the test, so that cleanups can
// call too.
func within() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), Timeout)
}

// Email is an event of the agent inbox that occurred now.
func Email(tenant uuid.UUID, key string, quantity int64) publisher.Event {
	return publisher.Event{Tenant: tenant, Agent: "inbox", ActionType: "email_processed", IdempotencyKey: key, Quantity: quantity}
}

// Publish stores events through the SDK's publisher, in this order.
func (s *Stream) Publish(events ...publisher.Event) {
	s.t.Helper()
	ctx, cancel := within()
	defer cancel()
	results, err := s.Publisher.PublishBatch(ctx, events)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, r := range results {
		if r.Err != nil {
			s.t.Fatal(r.Err)
		}
	}
}

// PublishRaw stores any bytes under any subject, past the publisher's checks.
// header alternates names and values.
func (s *Stream) PublishRaw(subject, payload string, header ...string) {
	s.t.Helper()
	msg := &nats.Msg{Subject: subject, Data: []byte(payload), Header: nats.Header{}}
	for i := 0; i+1 < len(header); i += 2 {
		msg.Header.Set(header[i], header[i+1])
	}
	ctx, cancel := within()
	defer cancel()
	if _, err := s.JetStream.PublishMsg(ctx, msg); err != nil {
		s.t.Fatal(err)
	}
}

// State is what the stream holds now.
func (s *Stream) State() jetstream.StreamState {
	s.t.Helper()
	ctx, cancel := within()
	defer cancel()
	stream, err := s.JetStream.Stream(ctx, ingest.StreamName)
	if err != nil {
		s.t.Fatal(err)
	}
	return stream.CachedInfo().State
}

// Messages is how many messages the stream holds.
func (s *Stream) Messages() int { s.t.Helper(); return int(s.State().Msgs) }

// LastSeq is the sequence of the stream's last message.
func (s *Stream) LastSeq() int64 { s.t.Helper(); return int64(s.State().LastSeq) }

// Stored is the event that the stream holds at a sequence, and its payload. A
// message that is no event fails the test.
func (s *Stream) Stored(seq uint64) (odometer.Event, string) {
	s.t.Helper()
	ctx, cancel := within()
	defer cancel()
	stream, err := s.JetStream.Stream(ctx, ingest.StreamName)
	if err != nil {
		s.t.Fatal(err)
	}
	m, err := stream.GetMsg(ctx, seq)
	if err != nil {
		s.t.Fatal(err)
	}
	kind, _, tenantToken, agentToken, _ := ingest.ParseStored(m.Subject)
	e, rejection := ingest.Decode(&ingest.Message{
		Kind: kind, TenantToken: tenantToken, AgentToken: agentToken, Header: m.Header, Data: m.Data, StoredAt: m.Time,
	})
	if rejection == nil {
		rejection = ingest.CheckAge(&e)
	}
	if rejection != nil {
		s.t.Fatalf("message %d, %s: %v", seq, m.Data, rejection)
	}
	return e, string(m.Data)
}

// Fill makes the stream refuse every further message.
func (s *Stream) Fill() {
	s.t.Helper()
	ctx, cancel := within()
	defer cancel()
	stream, err := s.JetStream.Stream(ctx, ingest.StreamName)
	if err != nil {
		s.t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	config.MaxBytes = 1
	if _, err := s.JetStream.UpdateStream(ctx, config); err != nil {
		s.t.Fatal(err)
	}
}
