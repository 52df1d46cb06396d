package ingest_test

import (
	"testing"

	"odometer/ingest"
)

func BenchmarkPrepare(b *testing.B) {
	payload := []byte(`{"agent":"inbox",` + ordinary[1:])
	b.ReportAllocs()
	for b.Loop() {
		if _, rejection := ingest.Prepare(tenant, payload, false, storedAt); rejection != nil {
			b.Fatal(rejection)
		}
	}
}
