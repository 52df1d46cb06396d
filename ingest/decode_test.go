package ingest_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"odometer"
	"odometer/ingest"
)

const tenantToken = "0b6e1a52-7f3c-4a60-9d0a-61a3f0b7c2d5"

var storedAt = time.Date(2026, 11, 23, 7, 15, 34, 123_456_789, time.UTC)

// stored is a message as the stream holds it under usage.<tenantToken>.inbox.
func stored(payload string) *ingest.Message {
	return &ingest.Message{
		Kind: odometer.Usage, TenantToken: tenantToken, AgentToken: "inbox",
		Data: []byte(payload), StoredAt: storedAt, Position: odometer.Position{Epoch: 2, Seq: 17},
	}
}

func storedAdjustment(payload string) *ingest.Message {
	m := stored(payload)
	m.Kind = odometer.Adjustment
	return m
}

func storedCloudEvent(payload string) *ingest.Message {
	m := stored(payload)
	m.Header = nats.Header{"content-type": {"application/cloudevents+json"}}
	return m
}

// with is a valid event with more members.
func with(members string) string {
	return `{"idempotency_key":"k1","action_type":"email_processed",` + members + `}`
}

// adjust is a valid correction with more members.
func adjust(members string) string { return `{"idempotency_key":"k1",` + members + `}` }

// cloud is a valid CloudEvent with its members replaced by others.
func cloud(id, source, version, kind, rest string) string {
	return fmt.Sprintf(`{"id":%s,"source":%s,"specversion":%s,"type":%s%s}`, id, source, version, kind, rest)
}

func validCloud(rest string) string {
	return cloud(`"k1"`, `"/agents/1"`, `"1.0"`, `"inbox.email_processed"`, rest)
}

func nested(depth int) string {
	return strings.Repeat(`{"a":`, depth-1) + `{}` + strings.Repeat(`}`, depth-1)
}

func TestDecodeReadsEveryField(t *testing.T) {
	t.Parallel()
	event, rejection := ingest.Decode(stored(`{"idempotency_key":"k1","action_type":"email_processed","quantity":3,"resource_id":"r1",` +
		`"occurred_at":"2026-11-23T09:15:33.1234567+02:00","metadata":{"a":[1,2.5e3,"x"]},"tenant_id":"` + tenantToken + `","agent":"inbox","more":[null]}`))
	if rejection != nil {
		t.Fatal(rejection)
	}
	resource := "r1"
	want := odometer.Event{
		Kind: odometer.Usage, Tenant: uuid.MustParse(tenantToken), Agent: "inbox", Key: "k1", Action: "email_processed",
		Resource: &resource, Quantity: 3, Metadata: []byte(`{"a":[1,2.5e3,"x"]}`),
		OccurredAt: time.Date(2026, 11, 23, 7, 15, 33, 123_456_000, time.UTC),
		RecordedAt: time.Date(2026, 11, 23, 7, 15, 34, 123_456_000, time.UTC),
		Position:   odometer.Position{Epoch: 2, Seq: 17},
	}
	if diff := cmp.Diff(want, event); diff != "" {
		t.Errorf("event (-want +got):\n%s", diff)
	}
	if event.OccurredAt.Location() != time.UTC || event.RecordedAt.Location() != time.UTC {
		t.Error("times are not in UTC")
	}
}

func TestAbsentFieldsHaveDefaults(t *testing.T) {
	t.Parallel()
	for _, payload := range []string{
		`{"idempotency_key":"k1","action_type":"email_processed"}`,
		with(`"quantity":null,"resource_id":null,"occurred_at":null,"metadata":null,"tenant_id":null,"agent":null`),
		" \n\t" + with(`"Quantity":7,"QUANTITY":8,"unknown":{"x":1e999999}`) + "\r\n ",
	} {
		event, rejection := ingest.Decode(stored(payload))
		if rejection != nil {
			t.Errorf("%s: %v", payload, rejection)
			continue
		}
		if event.Quantity != 1 || event.Resource != nil || event.Metadata != nil || !event.OccurredAt.Equal(event.RecordedAt) {
			t.Errorf("%s: %+v", payload, event)
		}
	}
}

func TestCloudEventIsTheSameEvent(t *testing.T) {
	t.Parallel()
	payload := validCloud(`,"time":"2026-11-23T07:15:33Z","datacontenttype":"application/json","data":{"quantity":3,"resource_id":"r1","metadata":{"a":1},"idempotency_key":7}`)
	plain, rejection := ingest.Decode(stored(with(`"quantity":3,"resource_id":"r1","occurred_at":"2026-11-23T07:15:33Z","metadata":{"a":1}`)))
	if rejection != nil {
		t.Fatal(rejection)
	}
	for _, header := range []nats.Header{
		{"content-type": {"application/cloudevents+json"}},
		{"Content-Type": {"application/cloudevents+json; charset=utf-8"}},
		{"CONTENT-TYPE": {"Application/CloudEvents+JSON ;x=y"}, "Nats-Msg-Id": {"x"}},
	} {
		m := stored(payload)
		m.Header = header
		event, rejection := ingest.Decode(m)
		if rejection != nil {
			t.Fatalf("%v: %v", header, rejection)
		}
		if diff := cmp.Diff(plain, event); diff != "" {
			t.Errorf("%v (-plain +cloud):\n%s", header, diff)
		}
	}
	m := stored(payload)
	m.Header = nats.Header{"content-type": {"application/json"}}
	if _, rejection := ingest.Decode(m); rejection == nil || rejection.Reason != odometer.InvalidField {
		t.Errorf("without its content type: %v", rejection)
	}
}

func TestCorrectionNeedsAQuantityOfEitherSign(t *testing.T) {
	t.Parallel()
	for payload, want := range map[string]int64{
		adjust(`"quantity":-5`): -5, adjust(`"quantity":1000000000,"action_type":"adjustment"`): 1_000_000_000, adjust(`"quantity":-1000000000`): -1_000_000_000,
	} {
		event, rejection := ingest.Decode(storedAdjustment(payload))
		if rejection != nil || event.Quantity != want || event.Action != odometer.AdjustmentAction || event.Kind != odometer.Adjustment {
			t.Errorf("%s: %+v, %v", payload, event, rejection)
		}
	}
}

func TestValidEventsAreAccepted(t *testing.T) {
	t.Parallel()
	for _, m := range []*ingest.Message{
		stored(with(`"quantity":1`)), stored(with(`"quantity":1000000000`)),
		stored(with(`"resource_id":""`)), stored(with(`"resource_id":"` + strings.Repeat("é", 255) + `"`)),
		stored(`{"idempotency_key":"` + strings.Repeat("ü", 255) + `","action_type":"a"}`),
		stored(`{"idempotency_key":"a b\u00e9\ud83d\ude00","action_type":"a"}`),
		stored(`{"idempotency\u005fkey":"k1","action_type":"a"}`),
		stored(with(`"x":"\\u0000 \\\\u0000"`)), stored(with(`"\\u0000":1`)),
		stored(with(`"occurred_at":"2026-11-23T00:00:00.123456789123-23:59"`)), stored(with(`"occurred_at":"2026-11-23T00:00:00\u005a"`)),
		stored(with(`"metadata":` + nested(32))), stored(with(`"metadata":{"a":"` + strings.Repeat("x", 8<<10-8) + `"}`)),
		stored(with(`"metadata":{"a":[1.7976931348623157e308,5e-324,0e10,-0.0e-10,123456789012345678901234567890],"[[{":"]}1e999"}`)),
		stored(with(`"x":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000))),
		stored(pad(with(`"x":"%s"`), 64<<10)),
		storedCloudEvent(validCloud("")), storedCloudEvent(validCloud(`,"data":null,"time":null,"quantity":"x"`)),
		storedCloudEvent(cloud(`"k1"`, `"s"`, `"1.0"`, `"inbox.email.processed"`, "")),
	} {
		if _, rejection := ingest.Decode(m); rejection != nil {
			t.Errorf("%.200s: %v", m.Data, rejection)
		}
	}
}

// pad fills in %s so that the whole has a number of bytes.
func pad(format string, bytes int) string {
	return fmt.Sprintf(format, strings.Repeat("x", bytes-len(format)+len("%s")))
}

func TestAgeLimitsAreInclusive(t *testing.T) {
	t.Parallel()
	recorded := storedAt.Truncate(time.Microsecond)
	for _, c := range []struct {
		occurred time.Time
		want     odometer.Reason
	}{
		{recorded, ""},
		{recorded.Add(odometer.MaxAhead), ""},
		{recorded.Add(odometer.MaxAhead + time.Microsecond), odometer.InFuture},
		{recorded.Add(odometer.MaxAhead + time.Nanosecond), ""}, // kept to the microsecond
		{recorded.Add(-odometer.MaxAge), ""},
		{recorded.Add(-odometer.MaxAge - time.Microsecond), odometer.TooOld},
		{time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), odometer.InFuture},
		{time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC), odometer.TooOld},
	} {
		event, rejection := ingest.Decode(stored(with(`"occurred_at":"` + c.occurred.Format(time.RFC3339Nano) + `"`)))
		if rejection != nil {
			t.Errorf("%s: %v", c.occurred, rejection)
			continue
		}
		rejection = ingest.CheckAge(&event)
		if c.want == "" {
			if rejection != nil {
				t.Errorf("%s: %v", c.occurred, rejection)
			}
			continue
		}
		wantRejected(t, c.occurred.String(), rejection, c.want, "occurred_at")
	}
}
