package ingest_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"odometer"
	"odometer/ingest"
	"odometer/ingest/natstest"
)

func TestABatchLiesInTheStreamWithoutAGapWhereItsAcksSay(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]natstest.Option{"synced never": nil, "synced always": {natstest.SyncAlways()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, stream, p := started(t, ingest.StreamConfig{}, opts...)
			singles, stop := context.WithCancel(t.Context())
			var all sync.WaitGroup
			all.Go(func() { // others publish between the batches
				for i := 0; singles.Err() == nil; i++ {
					_, _ = p.Publish(singles, event(fmt.Sprint("single", i))) // the last one is cut off
				}
			})
			for batch := range 4 {
				all.Go(func() { publishAndCompare(t, stream, p, events(fmt.Sprint("batch", batch), 60)) })
			}
			publishAndCompare(t, stream, p, events("large", 2500))
			stop()
			all.Wait()
		})
	}
}

// publishAndCompare checks that the stream holds at each ack's sequence what
// was acknowledged with it.
func publishAndCompare(t *testing.T, stream *ingest.Stream, p *ingest.Publisher, list []ingest.Event) {
	results, err := p.PublishBatch(t.Context(), list)
	if err != nil {
		t.Error(err)
		return
	}
	for i, r := range results {
		if i%7 != 0 && i != len(results)-1 {
			continue
		}
		m, err := stream.GetMsg(t.Context(), r.Ack.Seq)
		if err != nil || r.Ack.Duplicate || !strings.Contains(string(m.Data), `"`+list[i].IdempotencyKey+`"`) || r.Key != list[i].IdempotencyKey {
			t.Errorf("event %d of %d, %s, acknowledged with %+v: %v, %s", i, len(list), list[i].IdempotencyKey, r.Ack, err, m.Data)
			return
		}
	}
}

func TestABatchThatIsRepeatedGetsItsSequencesAgain(t *testing.T) {
	t.Parallel()
	_, stream, p := started(t, ingest.StreamConfig{})
	list := events("k", 50)
	first, err := p.PublishBatch(soon(t), list[:30])
	if err != nil {
		t.Fatal(err)
	}
	second, err := p.PublishBatch(soon(t), list)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[uint64]bool{}
	for i, r := range second {
		if i < 30 && r.Ack != (ingest.Ack{Seq: first[i].Ack.Seq, Duplicate: true}) || i >= 30 && r.Ack.Duplicate || seen[r.Ack.Seq] {
			t.Errorf("event %d: %+v", i, r.Ack)
		}
		seen[r.Ack.Seq] = true
	}
	if n := messages(t, stream); n != 50 {
		t.Errorf("%d messages, want 50", n)
	}
}

func TestTheSameBytesInOneBatchAreSentOnce(t *testing.T) {
	t.Parallel()
	_, stream, p := started(t, ingest.StreamConfig{})
	other := event("k1")
	other.Agent = "invoice"
	results, err := p.PublishBatch(soon(t), []ingest.Event{event("k1"), event("k2"), event("k1"), other, event("k1")})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []ingest.Ack{{Seq: 1}, {Seq: 2}, {Seq: 1, Duplicate: true}, {Seq: 3}, {Seq: 1, Duplicate: true}} {
		if results[i].Ack != want {
			t.Errorf("event %d: %+v, want %+v", i, results[i].Ack, want)
		}
	}
	results, err = p.PublishBatch(soon(t), []ingest.Event{event("k3"), event("k3")})
	if err != nil || results[0].Ack != (ingest.Ack{Seq: 4}) || results[1].Ack != (ingest.Ack{Seq: 4, Duplicate: true}) {
		t.Errorf("a batch of one: %+v, %v", results, err)
	}
	if n := messages(t, stream); n != 4 {
		t.Errorf("%d messages, want 4", n)
	}
}

func TestWhatIsInvalidInABatchStopsNothingElse(t *testing.T) {
	t.Parallel()
	_, stream, p := started(t, ingest.StreamConfig{})
	list := events("k", 5)
	list[1].Quantity = -3
	list[3].ActionType = "\xff"
	results, err := p.PublishBatch(soon(t), list)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []odometer.Reason{"", odometer.InvalidField, "", odometer.Malformed, ""} {
		var rejection *odometer.Rejection
		if errors.As(results[i].Err, &rejection) != (want != "") || want != "" && rejection.Reason != want {
			t.Errorf("event %d: %v, want %q", i, results[i].Err, want)
		}
	}
	if results[1].Key != "k-1" || results[4].Ack.Seq != 3 || messages(t, stream) != 3 {
		t.Errorf("results %+v", results)
	}
	if results, err := p.PublishBatch(soon(t), nil); err != nil || len(results) != 0 {
		t.Errorf("an empty batch: %v, %v", results, err)
	}
}

func TestABatchOfLargeEventsIsCutIntoSeveral(t *testing.T) {
	t.Parallel()
	_, stream, p := started(t, ingest.StreamConfig{})
	raws := make([]ingest.Raw, 100)
	for i := range raws {
		payload := pad(strings.Replace(with(`"x":"%s"`), "k1", fmt.Sprintf("k%03d", i), 1), odometer.MaxPayloadBytes)
		raws[i] = ingest.Raw{Tenant: uuid.New(), Agent: "inbox", Payload: []byte(payload)}
	}
	results, err := p.PublishRawBatch(soon(t), raws)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range results {
		if r.Ack.Seq != uint64(i+1) || r.Key != fmt.Sprintf("k%03d", i) {
			t.Errorf("event %d: %+v", i, r)
		}
	}
	if n := messages(t, stream); n != 100 {
		t.Errorf("%d messages, want 100", n)
	}
}
