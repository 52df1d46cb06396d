package ingest_test

import (
	"testing"

	"odometer/ingest"
)

// The wanted value was computed with other tools: printf '%s%s' usage.t.a '{}'
// | openssl dgst -sha256 -binary | base64, in base64url and without padding.
func TestTheMessageIDIsTheHashOfSubjectAndPayload(t *testing.T) {
	t.Parallel()
	if got, want := ingest.MessageID("usage.t.a", []byte("{}")), "LOT61GAIXtAgVcYRpmRKSACIIYDqhECwuZ93cQZaC4Q"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
