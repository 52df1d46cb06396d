package ingest_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"odometer"
	"odometer/ingest"
	"odometer/ingest/natstest"
)

func TestAPreparedEventIsJudgedByTheAgentThatItNames(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		payload, key, word string
		cloud              bool
		reason             odometer.Reason
	}{
		{payload: with(`"agent":"inbox"`), key: "k1"},
		{payload: validCloud(""), cloud: true, key: "k1"},
		{payload: with(`"quantity":1`), key: "k1", reason: odometer.InvalidField, word: "agent is missing"},
		{payload: with(`"agent":7`), key: "k1", reason: odometer.InvalidField, word: "agent is 7"},
		{payload: with(`"agent":"In.box"`), key: "k1", reason: odometer.InvalidField, word: `agent is "In.box"`},
		{payload: with(`"agent":"inbox","agent":"inbox"`), reason: odometer.Malformed},
		{payload: `[]`, reason: odometer.Malformed},
		{payload: ``, reason: odometer.Malformed},
		{payload: `{"agent":"inbox","action_type":"a"}`, reason: odometer.InvalidField, word: "idempotency_key is missing"},
		{payload: with(`"agent":"inbox","tenant_id":"` + strings.Replace(tenantToken, "0b", "0c", 1) + `"`), key: "k1", reason: odometer.SubjectMismatch},
		{payload: with(`"agent":"inbox","occurred_at":"2020-01-01T00:00:00Z"`), key: "k1", reason: odometer.TooOld},
		{payload: cloud(`"k1"`, `"/a"`, `"1.0"`, `"INBOX.email_processed"`, ""), cloud: true, key: "k1", reason: odometer.InvalidField, word: "type is"},
		{payload: cloud(`"k1"`, `"/a"`, `"1.0"`, `"inbox."`, ""), cloud: true, key: "k1", reason: odometer.InvalidField, word: "type is"},
		{payload: cloud(`"k1"`, `"/a"`, `"1.0"`, `null`, ""), cloud: true, key: "k1", reason: odometer.InvalidField, word: "type is missing"},
	} {
		now := time.Now()
		got, rejection := ingest.Prepare(tenant, []byte(c.payload), c.cloud, now)
		if got.Key() != c.key || (rejection == nil) != (c.reason == "") || rejection != nil && (rejection.Reason != c.reason || !strings.Contains(rejection.Detail, c.word)) {
			t.Errorf("%s: key %q, %v; want key %q, %s", c.payload, got.Key(), rejection, c.key, c.reason)
		}
		if want := ingest.Validate(ingest.Raw{Tenant: tenant, Agent: "inbox", Payload: []byte(c.payload), CloudEvent: c.cloud}, now); rejection == nil && want != nil {
			t.Errorf("%s: prepared, but not valid: %v", c.payload, want)
		}
	}
}

func TestPreparedEventsAreStoredAsTheyAre(t *testing.T) {
	t.Parallel()
	_, stream, p := started(t, ingest.StreamConfig{})
	payloads := []string{with(`"agent": "invoice"`), validCloud(`,"data":{"quantity":3}`)}
	var events []ingest.Prepared
	for i, payload := range payloads {
		e, rejection := ingest.Prepare(tenant, []byte(payload), i == 1, time.Now())
		if rejection != nil {
			t.Fatal(rejection)
		}
		events = append(events, e)
	}
	results, err := p.PublishPrepared(soon(t), append(events, events[0]))
	if err != nil || len(results) != 3 {
		t.Fatal(results, err)
	}
	if results[2].Ack != (ingest.Ack{Seq: 1, Duplicate: true}) {
		t.Errorf("the same bytes again: %+v", results[2])
	}
	for i, want := range []string{"invoice", "inbox"} {
		m, err := stream.GetMsg(soon(t), results[i].Ack.Seq)
		if err != nil || string(m.Data) != payloads[i] {
			t.Fatalf("stored %s, %v", m.Data, err)
		}
		if e := decoded(t, stream, results[i].Ack.Seq); e.Agent != want || e.Key != results[i].Key {
			t.Errorf("stored %+v", e)
		}
	}
	if results, err := p.PublishPrepared(soon(t), nil); len(results) != 0 || err != nil {
		t.Error(results, err)
	}
	nc := natstest.Run(t).Connect(t)
	if _, err := publisher(t, nc, ingest.AttemptTimeout(20*time.Millisecond)).PublishPrepared(soon(t), events[:1]); !errors.Is(err, ingest.ErrNoStream) {
		t.Errorf("without a stream: %v", err)
	}
}
