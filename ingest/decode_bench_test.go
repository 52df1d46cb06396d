package ingest_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"odometer"
	"odometer/ingest"
)

// ordinary is the payload of an ordinary event, 300 bytes.
const ordinary = `{"idempotency_key":"inbox-7f3c9a52-1be4-4a60-9d0a-61a3f0b7c2d5","action_type":"email_processed","quantity":1,` +
	`"resource_id":"msg_01HF7YAT9Q2Z8K4N6W3C5V1B0X","occurred_at":"2026-11-23T07:15:33.120Z",` +
	`"metadata":{"model":"small-3","tokens":1834,"thread":"thr_9f31","region":"eu-1","retry":false,"ms":412.5}}`

func BenchmarkDecode(b *testing.B) {
	m := &ingest.Message{
		Kind:        odometer.Usage,
		TenantToken: "0b6e1a52-7f3c-4a60-9d0a-61a3f0b7c2d5",
		AgentToken:  "inbox",
		Header:      nats.Header{"Nats-Msg-Id": {"x"}, "Nats-Batch-Id": {"y"}, "Nats-Batch-Sequence": {"17"}},
		Data:        []byte(ordinary),
		StoredAt:    time.Date(2026, 11, 23, 7, 15, 34, 0, time.UTC),
	}
	b.SetBytes(int64(len(ordinary)))
	b.ReportAllocs()
	for b.Loop() {
		if _, r := ingest.Decode(m); r != nil {
			b.Fatal(r)
		}
	}
}

func BenchmarkPrepare(b *testing.B) {
	payload := []byte(`{"agent":"inbox",` + ordinary[1:])
	b.ReportAllocs()
	for b.Loop() {
		if _, rejection := ingest.Prepare(tenant, payload, false, storedAt); rejection != nil {
			b.Fatal(rejection)
		}
	}
}
