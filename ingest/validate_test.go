package ingest_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"odometer"
	"odometer/ingest"
	"odometer/ingest/natstest"
	"odometer/ingest/publisher"
)

func TestPrepareTakesTheAgentFromThePayload(t *testing.T) {
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
		if got.Key != c.key || (rejection == nil) != (c.reason == "") || rejection != nil && (rejection.Reason != c.reason || !strings.Contains(rejection.Detail, c.word)) {
			t.Errorf("%s: key %q, %v; want key %q, %s", c.payload, got.Key, rejection, c.key, c.reason)
		}
		if want := ingest.Validate(publisher.Raw{Tenant: tenant, Agent: "inbox", Payload: []byte(c.payload), CloudEvent: c.cloud}, now); rejection == nil && want != nil {
			t.Errorf("%s: prepared, but not valid: %v", c.payload, want)
		}
	}
}

func TestPreparedEventsAreStoredUnchanged(t *testing.T) {
	t.Parallel()
	_, stream, p := started(t, ingest.StreamConfig{})
	payloads := []string{with(`"agent": "invoice"`), validCloud(`,"data":{"quantity":3}`)}
	var events []publisher.Raw
	for i, payload := range payloads {
		e, rejection := ingest.Prepare(tenant, []byte(payload), i == 1, time.Now())
		if rejection != nil {
			t.Fatal(rejection)
		}
		events = append(events, e)
	}
	results, err := p.PublishGrouped(soon(t), append(events, events[0]))
	if err != nil || len(results) != 3 {
		t.Fatal(results, err)
	}
	if results[2].Ack != (publisher.Ack{Seq: 1, Duplicate: true}) {
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
	if results, err := p.PublishGrouped(soon(t), nil); len(results) != 0 || err != nil {
		t.Error(results, err)
	}
	nc := natstest.Run(t).Connect(t)
	if _, err := newPublisher(t, nc, publisher.AttemptTimeout(20*time.Millisecond)).PublishGrouped(soon(t), events[:1]); !errors.Is(err, publisher.ErrNoStream) {
		t.Errorf("without a stream: %v", err)
	}
}

func TestValidateComparesPayloadAndSubject(t *testing.T) {
	t.Parallel()
	rejection := ingest.Validate(publisher.Raw{Tenant: tenant, Agent: "inbox", Payload: []byte(with(`"agent":"invoice"`))}, time.Now())
	if rejection == nil || rejection.Reason != odometer.SubjectMismatch {
		t.Errorf("got %v", rejection)
	}
}

// texts are mostly valid, of any length around the limit, and at times hold
// what no field may.
func texts() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		text := rapid.OneOf(rapid.StringMatching(`[a-z_.:-]{0,12}`), rapid.String(), rapid.SampledFrom([]string{
			"", "adjustment", "\x00", "a\x00", "\xff", "\xed\xa0\x80", "\u200b", "\u00a0", "\ufffd", "\u2028", "\\u0000", `\\u0000`, "é\n",
		})).Draw(t, "text")
		if rapid.IntRange(0, 9).Draw(t, "long") == 0 && text != "" {
			text = strings.Repeat(text, 1+rapid.IntRange(253, 257).Draw(t, "length")/len([]rune(text)))
		}
		return text
	})
}

// metadata is a JSON object, or nearly one.
func metadata() *rapid.Generator[[]byte] {
	value := rapid.OneOf(
		rapid.SampledFrom([]string{"1", "-0", "1.50", "1e30", "1e309", "-1e309", "1e-400", "0e-325", "0e324", "0.0e99", "0e99999999999999999999",
			strings.Repeat("9", 309), "null", "true", `"a"`, `"\u0000"`, `"\\u0000"`, `"\\\u0000"`, `"\ud800"`, `"\ud83d\ude00"`, "\"\xff\"", "tru", "01", "", "[1,]", "{}", "[]"}),
		rapid.Custom(func(t *rapid.T) string {
			depth := rapid.IntRange(1, 40).Draw(t, "depth")
			return strings.Repeat("[", depth) + strings.Repeat("]", depth)
		}),
		rapid.Custom(func(t *rapid.T) string {
			return `"` + strings.Repeat("x", rapid.SampledFrom([]int{8180, 8184, 8185, 8186, 8200, 65000, 66000}).Draw(t, "size")) + `"`
		}),
	)
	return rapid.Custom(func(t *rapid.T) []byte {
		text := fmt.Sprintf(rapid.SampledFrom([]string{
			`{"a":%s}`, ` {"a":[%s]}`, "{\"a\":{\"b\":%s}}\n", `{"a":1,"a":%s}`, `{"a":%s}{}`, `{"a":%s},"b":{}`, `%s`, `{"%[1]s":1}`, "\u00a0{\"a\":%s}",
		}).Draw(t, "form"), value.Draw(t, "value"))
		return []byte(text)
	})
}

// A publisher knows the rules of an event by itself. What it accepts, the
// reader of the stream accepts, as the same event; what it rejects, the reader
// rejects for the same reason.
func TestPublisherAndReaderAgreeOnWhatIsValid(t *testing.T) {
	t.Parallel()
	valid := 0
	rapid.Check(t, func(t *rapid.T) {
		// Most fields are valid, so that every check is the first to fail.
		sound := func(name string) bool { return rapid.IntRange(0, 5).Draw(t, name+" is sound") > 0 }
		e := event("k1")
		e.Adjustment = rapid.Bool().Draw(t, "adjustment")
		if e.Adjustment {
			e.ActionType, e.Quantity = "", -1
		}
		if !sound("agent") {
			e.Agent = rapid.OneOf(rapid.StringMatching(`[a-z][a-z0-9_-]{0,33}`), texts()).Draw(t, "agent")
		}
		if !sound("key") {
			e.IdempotencyKey = texts().Draw(t, "key")
		}
		if !sound("action") {
			e.ActionType = texts().Draw(t, "action")
		}
		if !sound("quantity") {
			e.Quantity = rapid.OneOf(rapid.Int64Range(-2, 2), rapid.Int64Range(999_999_999, 1_000_000_001), rapid.Int64Range(-1_000_000_001, -999_999_999), rapid.Int64()).Draw(t, "quantity")
		}
		if !sound("resource") {
			e.ResourceID = texts().Draw(t, "resource")
		}
		now := storedAt.Add(time.Duration(rapid.IntRange(0, 2000).Draw(t, "nanoseconds")))
		if !sound("time") {
			edge := rapid.SampledFrom([]time.Time{now, now.Add(-odometer.MaxAge), now.Add(odometer.MaxAhead), time.Date(9999, 12, 31, 23, 0, 0, 0, time.UTC), time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)}).Draw(t, "edge")
			e.OccurredAt = edge.Add(time.Duration(rapid.Int64Range(-3000, 3000).Draw(t, "off"))).In(time.FixedZone("", 60*rapid.IntRange(-800, 800).Draw(t, "zone")))
		}
		if !sound("metadata") {
			e.Metadata = metadata().Draw(t, "metadata")
		}
		raw, rejected := publisher.Encode(e, now)
		if rejected != nil && raw.Payload == nil {
			// Not even encoded: JSON that claims to hold such a string is malformed.
			if rejected.Reason != publisher.Malformed {
				t.Fatalf("%+v is not encoded: %v", e, rejected)
			}
			return
		}
		want := ingest.Validate(raw, now)
		if len(e.Metadata) > 0 && !json.Valid(e.Metadata) {
			// It would smuggle other members into the payload.
			want = &odometer.Rejection{Reason: odometer.Malformed}
		}
		switch {
		case rejected == nil && want != nil:
			t.Fatalf("%s: the publisher accepts what the reader rejects: %v", raw.Payload, want)
		case rejected != nil && (want == nil || string(want.Reason) != rejected.Reason):
			t.Fatalf("%s: the publisher says %v, the reader says %v", raw.Payload, rejected, want)
		case rejected == nil:
			valid++
		}
	})
	if valid == 0 {
		t.Error("no valid event was generated")
	}
}
