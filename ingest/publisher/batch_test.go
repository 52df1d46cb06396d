package publisher_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"odometer"
	"odometer/ingest"
	"odometer/ingest/natstest"
	"odometer/ingest/publisher"
)

func TestBatchIsStoredWithoutGapAtItsAcks(t *testing.T) {
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
func publishAndCompare(t *testing.T, stream *ingest.Stream, p *publisher.Publisher, list []publisher.Event) {
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

func TestRepeatedBatchGetsItsSequencesAgain(t *testing.T) {
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
		if i < 30 && r.Ack != (publisher.Ack{Seq: first[i].Ack.Seq, Duplicate: true}) || i >= 30 && r.Ack.Duplicate || seen[r.Ack.Seq] {
			t.Errorf("event %d: %+v", i, r.Ack)
		}
		seen[r.Ack.Seq] = true
	}
	if n := messages(t, stream); n != 50 {
		t.Errorf("%d messages, want 50", n)
	}
}

func TestSameBytesInOneBatchAreSentOnce(t *testing.T) {
	t.Parallel()
	_, stream, p := started(t, ingest.StreamConfig{})
	other := event("k1")
	other.Agent = "invoice"
	results, err := p.PublishBatch(soon(t), []publisher.Event{event("k1"), event("k2"), event("k1"), other, event("k1")})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []publisher.Ack{{Seq: 1}, {Seq: 2}, {Seq: 1, Duplicate: true}, {Seq: 3}, {Seq: 1, Duplicate: true}} {
		if results[i].Ack != want {
			t.Errorf("event %d: %+v, want %+v", i, results[i].Ack, want)
		}
	}
	results, err = p.PublishBatch(soon(t), []publisher.Event{event("k3"), event("k3")})
	if err != nil || results[0].Ack != (publisher.Ack{Seq: 4}) || results[1].Ack != (publisher.Ack{Seq: 4, Duplicate: true}) {
		t.Errorf("a batch of one: %+v, %v", results, err)
	}
	if n := messages(t, stream); n != 4 {
		t.Errorf("%d messages, want 4", n)
	}
}

func TestInvalidEventInBatchStopsNoOther(t *testing.T) {
	t.Parallel()
	_, stream, p := started(t, ingest.StreamConfig{})
	list := events("k", 5)
	list[1].Quantity = -3
	list[3].ActionType = "\xff"
	results, err := p.PublishBatch(soon(t), list)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"", publisher.InvalidField, "", publisher.Malformed, ""} {
		var rejection *publisher.Rejection
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

func TestBatchOfLargeEventsIsCutIntoSeveral(t *testing.T) {
	t.Parallel()
	_, stream, p := started(t, ingest.StreamConfig{})
	raws := make([]publisher.Raw, 100)
	for i := range raws {
		key := fmt.Sprintf("k%03d", i)
		payload := `{"idempotency_key":"` + key + `","action_type":"a","x":"`
		payload += strings.Repeat("x", odometer.MaxPayloadBytes-len(payload)-len(`"}`)) + `"}`
		raws[i] = publisher.Raw{Tenant: uuid.New(), Agent: "inbox", Key: key, Payload: []byte(payload)}
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

// raws are valid events under keys with a prefix.
func raws(of uuid.UUID, prefix string, n int) []publisher.Raw {
	list := make([]publisher.Raw, n)
	for i := range list {
		key := fmt.Sprintf("%s-%d", prefix, i)
		list[i] = publisher.Raw{Tenant: of, Agent: "inbox", Key: key, Payload: fmt.Appendf(nil, `{"idempotency_key":%q,"action_type":"email_processed"}`, key)}
	}
	return list
}

func TestEachGroupedCallerGetsItsOwnSequences(t *testing.T) {
	t.Parallel()
	_, stream, p := started(t, ingest.StreamConfig{})
	sizes := []int{1, 2, 7, 19, 20, 60, 300, 999, 1000, 1500}
	var all sync.WaitGroup
	total := 0
	for c := range 40 {
		size := sizes[c%len(sizes)]
		total += size
		prefix := fmt.Sprint("caller", c)
		list := raws(tenant, prefix, size)
		all.Go(func() {
			results, err := p.PublishGrouped(soon(t), list)
			if err != nil || len(results) != size {
				t.Errorf("%d events: %d results, %v", size, len(results), err)
				return
			}
			for i, r := range results {
				if want := fmt.Sprintf("%s-%d", prefix, i); r.Key != want || r.Ack.Duplicate || i > 0 && r.Ack.Seq <= results[i-1].Ack.Seq {
					t.Errorf("event %d of %d: %+v after %+v", i, size, r, results[max(0, i-1)])
					return
				}
			}
			for _, i := range []int{0, size / 2, size - 1} {
				if e := decoded(t, stream, results[i].Ack.Seq); e.Key != results[i].Key {
					t.Errorf("%d holds %s, want %s", results[i].Ack.Seq, e.Key, results[i].Key)
				}
			}
		})
	}
	all.Wait()
	if n := messages(t, stream); n != total {
		t.Errorf("%d messages, want %d", n, total)
	}
}

// A caller that repeats itself, has no permission or has gone disturbs no other
// that publishes at the same time.
func TestFailureOfOneCallerIsNotTheOthers(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t, tenantsOnly)
	stream := ensure(t, s.Connect(t, nats.UserInfo("admin", "x")), ingest.StreamConfig{})
	p := newPublisher(t, s.Connect(t, nats.UserInfo("agent", "x"), nats.CustomInboxPrefix("_INBOX_agent")), publisher.AttemptTimeout(10*time.Second))
	known := raws(tenant, "known", 30)
	if _, err := p.PublishGrouped(soon(t), known); err != nil {
		t.Fatal(err)
	}
	foreign := raws(uuid.New(), "foreign", 30)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	var all sync.WaitGroup
	for c := range 10 {
		fresh := raws(tenant, fmt.Sprint("fresh", c), 30)
		all.Go(func() {
			results, err := p.PublishGrouped(soon(t), fresh)
			for _, r := range results {
				if err != nil || r.Ack.Duplicate || r.Ack.Seq == 0 {
					t.Errorf("fresh events: %+v, %v", r, err)
					return
				}
			}
		})
		all.Go(func() {
			results, err := p.PublishGrouped(soon(t), known)
			for i, r := range results {
				if err != nil || r.Key != fmt.Sprint("known-", i) || decoded(t, stream, r.Ack.Seq).Key != r.Key {
					t.Errorf("known events: %+v, %v", r, err)
					return
				}
			}
		})
		all.Go(func() {
			if _, err := p.PublishGrouped(soon(t), foreign); !errors.Is(err, publisher.ErrNotPermitted) {
				t.Errorf("another tenant's events: %v", err)
			}
		})
		all.Go(func() {
			if results, err := p.PublishGrouped(gone, raws(tenant, fmt.Sprint("gone", c), 30)); err == nil && len(results) != 30 {
				t.Errorf("a caller that has gone: %v", results)
			}
		})
	}
	all.Wait()
}

// A few events go one by one, and still in their order: of one key, the first
// is the one that counts.
func TestFewEventsKeepTheirOrder(t *testing.T) {
	t.Parallel()
	_, _, p := started(t, ingest.StreamConfig{}, natstest.SyncAlways())
	for _, publish := range []func(prefix string) ([]publisher.Result, error){
		func(prefix string) ([]publisher.Result, error) { return p.PublishBatch(soon(t), events(prefix, 19)) },
		func(prefix string) ([]publisher.Result, error) {
			return p.PublishGrouped(soon(t), raws(tenant, prefix, 19))
		},
	} {
		for round := range 20 {
			results, err := publish(fmt.Sprint("k", round))
			for i, r := range results {
				if err != nil || i > 0 && r.Ack.Seq <= results[i-1].Ack.Seq {
					t.Fatalf("event %d: %+v, %v", i, r, err)
				}
			}
		}
		p = newPublisher(t, natstest.Run(t).Connect(t), publisher.AttemptTimeout(20*time.Millisecond))
		if _, err := publish("nowhere"); !errors.Is(err, publisher.ErrNoStream) {
			t.Errorf("without a stream: %v", err)
		}
		_, _, p = started(t, ingest.StreamConfig{})
	}
}

func TestGroupedCallersWaitForServerToReturn(t *testing.T) {
	t.Parallel()
	s, stream, p := started(t, ingest.StreamConfig{})
	s.Kill()
	var all sync.WaitGroup
	for c := range 6 {
		list := raws(tenant, fmt.Sprint("caller", c), 1+20*c)
		all.Go(func() {
			if _, err := p.PublishGrouped(soon(t), list); err != nil {
				t.Error(err)
			}
		})
	}
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := p.PublishGrouped(short, raws(tenant, "short", 30)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a caller that waits no longer: %v", err)
	}
	s.Start()
	all.Wait()
	if n := messages(t, stream); n < 306 {
		t.Errorf("%d messages, want 306 or more", n)
	}
}
