package ingest_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"odometer"
	"odometer/ingest"
	"odometer/ingest/natstest"
	"odometer/ingest/publisher"
)

var tenant = uuid.MustParse(tenantToken)

// event is a valid event under a key.
func event(key string) publisher.Event {
	return publisher.Event{Tenant: tenant, Agent: "inbox", ActionType: "email_processed", IdempotencyKey: key}
}

func events(prefix string, n int) []publisher.Event {
	list := make([]publisher.Event, n)
	for i := range list {
		list[i] = event(fmt.Sprintf("%s-%d", prefix, i))
	}
	return list
}

func newPublisher(t *testing.T, nc *nats.Conn, opts ...publisher.Option) *publisher.Publisher {
	t.Helper()
	p, err := publisher.New(nc, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// started is a server with the stream, and a publisher.
func started(t *testing.T, c ingest.StreamConfig, opts ...natstest.Option) (*natstest.Server, *ingest.Stream, *publisher.Publisher) {
	t.Helper()
	s := natstest.Run(t, opts...)
	nc := s.Connect(t)
	return s, ensure(t, nc, c), newPublisher(t, nc, publisher.AttemptTimeout(2*time.Second))
}

func messages(t *testing.T, stream *ingest.Stream) int {
	t.Helper()
	info, err := stream.Info(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	return int(info.State.Msgs)
}

// decoded is the event that the stream holds at a sequence.
func decoded(t *testing.T, stream *ingest.Stream, seq uint64) odometer.Event {
	t.Helper()
	m, err := stream.GetMsg(soon(t), seq)
	if err != nil {
		t.Fatal(err)
	}
	kind, _, tenantToken, agentToken, ok := ingest.ParseStored(m.Subject)
	if !ok {
		t.Fatalf("subject %s", m.Subject)
	}
	e, rejection := ingest.Decode(&ingest.Message{
		Kind: kind, TenantToken: tenantToken, AgentToken: agentToken, Header: m.Header, Data: m.Data, StoredAt: m.Time,
	})
	if rejection != nil {
		t.Fatal(rejection)
	}
	return e
}
