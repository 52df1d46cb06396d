package ingest_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"odometer"
	"odometer/ingest"
	"odometer/ingest/natstest"
)

var tenant = uuid.MustParse(tenantToken)

// event is a valid event under a key.
func event(key string) ingest.Event {
	return ingest.Event{Tenant: tenant, Agent: "inbox", ActionType: "email_processed", IdempotencyKey: key}
}

func events(prefix string, n int) []ingest.Event {
	list := make([]ingest.Event, n)
	for i := range list {
		list[i] = event(fmt.Sprintf("%s-%d", prefix, i))
	}
	return list
}

func publisher(t *testing.T, nc *nats.Conn, opts ...ingest.Option) *ingest.Publisher {
	t.Helper()
	p, err := ingest.NewPublisher(nc, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// started is a server with the stream, and a publisher.
func started(t *testing.T, c ingest.StreamConfig, opts ...natstest.Option) (*natstest.Server, *ingest.Stream, *ingest.Publisher) {
	t.Helper()
	s := natstest.Run(t, opts...)
	nc := s.Connect(t)
	return s, ensure(t, nc, c), publisher(t, nc, ingest.AttemptTimeout(2*time.Second))
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

func TestPublishedIsStored(t *testing.T) {
	t.Parallel()
	_, stream, p := started(t, ingest.StreamConfig{})
	sent := ingest.Event{
		Tenant: tenant, Agent: "inbox", IdempotencyKey: "k\"1\n"[:3], ActionType: "email_processed", Quantity: 3, ResourceID: "ré",
		OccurredAt: time.Now().Add(-time.Hour), Metadata: []byte(`{"a": 1}`),
	}
	ack, err := p.Publish(soon(t), sent)
	if err != nil || ack != (ingest.Ack{Seq: 1}) {
		t.Fatal(ack, err)
	}
	e := decoded(t, stream, 1)
	if e.Kind != odometer.Usage || e.Tenant != tenant || e.Agent != "inbox" || e.Key != `k"1` || e.Action != "email_processed" || e.Quantity != 3 ||
		*e.Resource != "ré" || string(e.Metadata) != `{"a": 1}` || !e.OccurredAt.Equal(sent.OccurredAt.Truncate(time.Microsecond)) {
		t.Errorf("stored %+v", e)
	}
	m, err := stream.GetMsg(soon(t), 1)
	if err != nil {
		t.Fatal(err)
	}
	if id := m.Header.Get("Nats-Msg-Id"); id != ingest.MessageID("usage."+tenantToken+".inbox", m.Data) {
		t.Errorf("message id %q", id)
	}
}

func TestAnEventIsAlwaysTheSameBytes(t *testing.T) {
	t.Parallel()
	_, stream, p := started(t, ingest.StreamConfig{})
	e := event("k1")
	e.Quantity, e.ResourceID, e.Metadata = 2, "r1", []byte(`{"b":1,"a":2}`)
	e.OccurredAt = time.Now().In(time.FixedZone("", 3600)).Truncate(time.Hour)
	ack, err := p.Publish(soon(t), e)
	if err != nil {
		t.Fatal(err)
	}
	m, err := stream.GetMsg(soon(t), ack.Seq)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"idempotency_key":"k1","action_type":"email_processed","quantity":2,"resource_id":"r1","occurred_at":"` +
		e.OccurredAt.UTC().Format(time.RFC3339) + `","metadata":{"b":1,"a":2}}`
	if string(m.Data) != want {
		t.Errorf("stored %s\n  want %s", m.Data, want)
	}
}

func TestSameBytesAreStoredOnce(t *testing.T) {
	t.Parallel()
	_, stream, p := started(t, ingest.StreamConfig{})
	other := event("k1")
	other.Tenant = uuid.New()
	conflict := event("k1")
	conflict.Quantity = 2
	for i, c := range []struct {
		e    ingest.Event
		want ingest.Ack
	}{
		{event("k1"), ingest.Ack{Seq: 1}},
		{event("k1"), ingest.Ack{Seq: 1, Duplicate: true}},
		{other, ingest.Ack{Seq: 2}},    // another subject: another tenant's event
		{conflict, ingest.Ack{Seq: 3}}, // the same key, other content: a conflict to be seen
		{event("k1"), ingest.Ack{Seq: 1, Duplicate: true}},
	} {
		if ack, err := p.Publish(soon(t), c.e); err != nil || ack != c.want {
			t.Errorf("publish %d: %+v, %v; want %+v", i, ack, err, c.want)
		}
	}
	if n := messages(t, stream); n != 3 {
		t.Errorf("%d messages, want 3", n)
	}
}

func TestACorrectionAndACloudEventAreTakenToo(t *testing.T) {
	t.Parallel()
	_, stream, p := started(t, ingest.StreamConfig{})
	ack, err := p.Publish(soon(t), ingest.Event{Kind: odometer.Adjustment, Tenant: tenant, Agent: "inbox", IdempotencyKey: "k1", Quantity: -7})
	if err != nil {
		t.Fatal(err)
	}
	if e := decoded(t, stream, ack.Seq); e.Kind != odometer.Adjustment || e.Quantity != -7 || e.Action != odometer.AdjustmentAction {
		t.Errorf("stored %+v", e)
	}
	raw := ingest.Raw{Tenant: tenant, Agent: "inbox", Payload: []byte(validCloud(`,"data":{"quantity":9}`)), CloudEvent: true}
	if ack, err = p.PublishRaw(soon(t), raw); err != nil {
		t.Fatal(err)
	}
	if e := decoded(t, stream, ack.Seq); e.Quantity != 9 {
		t.Errorf("stored %+v", e)
	}
}

func TestAnInvalidEventIsNotSent(t *testing.T) {
	t.Parallel()
	_, stream, p := started(t, ingest.StreamConfig{})
	for want, e := range map[odometer.Reason]ingest.Event{
		odometer.InvalidField: {Tenant: tenant, Agent: "in.box", ActionType: "a", IdempotencyKey: "k"},
		odometer.Malformed:    {Tenant: tenant, Agent: "inbox", ActionType: "a", IdempotencyKey: "\xff"},
		odometer.InFuture:     {Tenant: tenant, Agent: "inbox", ActionType: "a", IdempotencyKey: "k", OccurredAt: time.Now().Add(time.Hour)},
		odometer.TooOld:       {Tenant: tenant, Agent: "inbox", ActionType: "a", IdempotencyKey: "k", OccurredAt: time.Now().AddDate(0, 0, -91)},
	} {
		_, err := p.Publish(soon(t), e)
		var rejection *odometer.Rejection
		if !errors.As(err, &rejection) || rejection.Reason != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if rejection := ingest.Validate(ingest.Raw{Tenant: tenant, Agent: "inbox", Payload: []byte(with(`"agent":"invoice"`))}, time.Now()); rejection == nil || rejection.Reason != odometer.SubjectMismatch {
		t.Errorf("got %v", rejection)
	}
	if n := messages(t, stream); n != 0 {
		t.Errorf("%d messages were stored", n)
	}
}

func TestPublishWaitsForAServerThatComesBack(t *testing.T) {
	t.Parallel()
	s, stream, p := started(t, ingest.StreamConfig{})
	if _, err := p.Publish(soon(t), event("before")); err != nil {
		t.Fatal(err)
	}
	s.Kill()
	done := make(chan error)
	go func() {
		_, err := p.Publish(soon(t), event("while away"))
		done <- err
	}()
	batchDone := make(chan error)
	go func() {
		_, err := p.PublishBatch(soon(t), events("while away", 10))
		batchDone <- err
	}()
	s.Start()
	if err := errors.Join(<-done, <-batchDone); err != nil {
		t.Fatal(err)
	}
	if e := decoded(t, stream, 1); e.Key != "before" {
		t.Errorf("the first event is %q", e.Key)
	}
	if n := messages(t, stream); n < 12 {
		t.Errorf("%d messages, want 12 or more", n)
	}
}
