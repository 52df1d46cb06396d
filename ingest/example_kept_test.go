package ingest_test

import (
	"encoding/json"
	"testing"
	"time"

	"odometer"
	"odometer/ingest"
)

// The package comment tells agents to keep an Event as JSON.
func TestAnEventKeptAsJSONIsPublishedAsTheSameBytes(t *testing.T) {
	t.Parallel()
	_, stream, p := started(t, ingest.StreamConfig{})
	full := event("k\"1")
	full.Quantity, full.ResourceID, full.Metadata = 2, "r ü <&>", []byte(`{"b": 1.50, "a":"\u00e9"}`)
	full.OccurredAt = time.Now().In(time.FixedZone("", -5400))
	correction := full
	correction.Kind, correction.ActionType, correction.Quantity = odometer.Adjustment, "", -3
	for _, made := range []ingest.Event{event("k1"), full, correction} {
		text, err := json.Marshal(made)
		if err != nil {
			t.Fatal(err)
		}
		var kept ingest.Event
		if err := json.Unmarshal(text, &kept); err != nil {
			t.Fatal(err)
		}
		var payloads [2]string
		for i, e := range []ingest.Event{made, kept} {
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
