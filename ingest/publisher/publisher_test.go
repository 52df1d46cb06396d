package publisher_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"odometer"
	"odometer/ingest"
	"odometer/ingest/natstest"
	"odometer/ingest/publisher"
)

const tenantToken = "0b6e1a52-7f3c-4a60-9d0a-61a3f0b7c2d5"

var tenant = uuid.MustParse(tenantToken)

// soon bounds a test's waiting; no test needs nearly as long.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func jetStream(t *testing.T, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func ensure(t *testing.T, nc *nats.Conn, c ingest.StreamConfig) *ingest.Stream {
	t.Helper()
	stream, err := ingest.EnsureStream(soon(t), jetStream(t, nc), c)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

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

func TestPublishReturnsWhenTheEventIsStored(t *testing.T) {
	t.Parallel()
	_, stream, p := started(t, ingest.StreamConfig{})
	sent := publisher.Event{
		Tenant: tenant, Agent: "inbox", IdempotencyKey: "k\"1\n"[:3], ActionType: "email_processed", Quantity: 3, ResourceID: "ré",
		OccurredAt: time.Now().Add(-time.Hour), Metadata: []byte(`{"a": 1}`),
	}
	ack, err := p.Publish(soon(t), sent)
	if err != nil || ack != (publisher.Ack{Seq: 1}) {
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
	if id := m.Header.Get("Nats-Msg-Id"); id != publisher.MessageID("usage."+tenantToken+".inbox", m.Data) {
		t.Errorf("message id %q", id)
	}
}

func TestEventIsAlwaysEncodedAsTheSameBytes(t *testing.T) {
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
		e    publisher.Event
		want publisher.Ack
	}{
		{event("k1"), publisher.Ack{Seq: 1}},
		{event("k1"), publisher.Ack{Seq: 1, Duplicate: true}},
		{other, publisher.Ack{Seq: 2}},    // another subject: another tenant's event
		{conflict, publisher.Ack{Seq: 3}}, // the same key, other content: a conflict to be seen
		{event("k1"), publisher.Ack{Seq: 1, Duplicate: true}},
	} {
		if ack, err := p.Publish(soon(t), c.e); err != nil || ack != c.want {
			t.Errorf("publish %d: %+v, %v; want %+v", i, ack, err, c.want)
		}
	}
	if n := messages(t, stream); n != 3 {
		t.Errorf("%d messages, want 3", n)
	}
}

func TestPublishesCorrectionsAndCloudEvents(t *testing.T) {
	t.Parallel()
	_, stream, p := started(t, ingest.StreamConfig{})
	ack, err := p.Publish(soon(t), publisher.Event{Adjustment: true, Tenant: tenant, Agent: "inbox", IdempotencyKey: "k1", Quantity: -7})
	if err != nil {
		t.Fatal(err)
	}
	if e := decoded(t, stream, ack.Seq); e.Kind != odometer.Adjustment || e.Quantity != -7 || e.Action != odometer.AdjustmentAction {
		t.Errorf("stored %+v", e)
	}
	payload := `{"id":"k1","source":"/agents/1","specversion":"1.0","type":"inbox.email_processed","data":{"quantity":9}}`
	raw := publisher.Raw{Tenant: tenant, Agent: "inbox", Payload: []byte(payload), CloudEvent: true}
	if ack, err = p.PublishRaw(soon(t), raw); err != nil {
		t.Fatal(err)
	}
	if e := decoded(t, stream, ack.Seq); e.Quantity != 9 {
		t.Errorf("stored %+v", e)
	}
}

func TestInvalidEventIsNotSent(t *testing.T) {
	t.Parallel()
	_, stream, p := started(t, ingest.StreamConfig{})
	for want, e := range map[string]publisher.Event{
		publisher.InvalidField: {Tenant: tenant, Agent: "in.box", ActionType: "a", IdempotencyKey: "k"},
		publisher.Malformed:    {Tenant: tenant, Agent: "inbox", ActionType: "a", IdempotencyKey: "\xff"},
		publisher.InFuture:     {Tenant: tenant, Agent: "inbox", ActionType: "a", IdempotencyKey: "k", OccurredAt: time.Now().Add(time.Hour)},
		publisher.TooOld:       {Tenant: tenant, Agent: "inbox", ActionType: "a", IdempotencyKey: "k", OccurredAt: time.Now().AddDate(0, 0, -91)},
	} {
		_, err := p.Publish(soon(t), e)
		var rejection *publisher.Rejection
		if !errors.As(err, &rejection) || rejection.Reason != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if n := messages(t, stream); n != 0 {
		t.Errorf("%d messages were stored", n)
	}
}

func TestPublishWaitsForServerToReturn(t *testing.T) {
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

// The package comment advises agents to keep an Event as JSON.
func TestEventKeptAsJSONIsPublishedAsTheSameBytes(t *testing.T) {
	t.Parallel()
	_, stream, p := started(t, ingest.StreamConfig{})
	full := event("k\"1")
	full.Quantity, full.ResourceID, full.Metadata = 2, "r ü <&>", []byte(`{"b": 1.50, "a":"\u00e9"}`)
	full.OccurredAt = time.Now().In(time.FixedZone("", -5400))
	correction := full
	correction.Adjustment, correction.ActionType, correction.Quantity = true, "", -3
	for _, made := range []publisher.Event{event("k1"), full, correction} {
		text, err := json.Marshal(made)
		if err != nil {
			t.Fatal(err)
		}
		var kept publisher.Event
		if err := json.Unmarshal(text, &kept); err != nil {
			t.Fatal(err)
		}
		var payloads [2]string
		for i, e := range []publisher.Event{made, kept} {
			ack, err := p.Publish(soon(t), e)
			if err != nil {
				t.Fatal(err)
			}
			m, err := stream.GetMsg(soon(t), ack.Seq)
			if err != nil {
				t.Fatal(err)
			}
			payloads[i] = m.Subject + string(m.Data)
		}
		if payloads[0] != payloads[1] {
			t.Errorf("made  %s\nkept %s", payloads[0], payloads[1])
		}
	}
}

// The wanted value was computed with other tools: printf '%s%s' usage.t.a '{}'
// | openssl dgst -sha256 -binary | base64, in base64url and without padding.
func TestMessageIDIsHashOfSubjectAndPayload(t *testing.T) {
	t.Parallel()
	if got, want := publisher.MessageID("usage.t.a", []byte("{}")), "LOT61GAIXtAgVcYRpmRKSACIIYDqhECwuZ93cQZaC4Q"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func BenchmarkPublishEncode(b *testing.B) {
	e := event("inbox-7f3c9a52-1be4-4a60-9d0a-61a3f0b7c2d5")
	e.ResourceID, e.OccurredAt, e.Metadata = "msg_01HF7YAT9Q2Z8K4N6W3C5V1B0X", time.Now(), []byte(`{"model":"small-3","tokens":1834,"retry":false,"ms":412.5}`)
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		raw, rejection := publisher.Encode(e, now)
		if rejection != nil {
			b.Fatal(rejection)
		}
		publisher.MessageID("usage."+tenantToken+".inbox", raw.Payload)
	}
}
