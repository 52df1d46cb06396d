package ingest_test

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

	"odometer/ingest"
	"odometer/ingest/natstest"
)

// prepared are valid events under keys with a prefix.
func prepared(t *testing.T, of uuid.UUID, prefix string, n int) []ingest.Prepared {
	t.Helper()
	list := make([]ingest.Prepared, n)
	for i := range list {
		payload := strings.Replace(with(`"agent":"inbox"`), "k1", fmt.Sprintf("%s-%d", prefix, i), 1)
		e, rejection := ingest.Prepare(of, []byte(payload), false, time.Now())
		if rejection != nil {
			t.Fatal(rejection)
		}
		list[i] = e
	}
	return list
}

func TestManyCallersAtOnceEachGetTheirOwnSequences(t *testing.T) {
	t.Parallel()
	_, stream, p := started(t, ingest.StreamConfig{})
	sizes := []int{1, 2, 7, 19, 20, 60, 300, 999, 1000, 1500}
	var all sync.WaitGroup
	total := 0
	for c := range 40 {
		size := sizes[c%len(sizes)]
		total += size
		prefix := fmt.Sprint("caller", c)
		list := prepared(t, tenant, prefix, size)
		all.Go(func() {
			results, err := p.PublishPrepared(soon(t), list)
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

// Whoever repeats itself, or may not publish, or has gone, is no trouble to
// those who publish at the same time.
func TestOnesTroubleIsNotTheOthers(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t, tenantsOnly)
	stream := ensure(t, s.Connect(t, nats.UserInfo("admin", "x")), ingest.StreamConfig{})
	p := publisher(t, s.Connect(t, nats.UserInfo("agent", "x"), nats.CustomInboxPrefix("_INBOX_agent")), ingest.AttemptTimeout(10*time.Second))
	known := prepared(t, tenant, "known", 30)
	if _, err := p.PublishPrepared(soon(t), known); err != nil {
		t.Fatal(err)
	}
	stranger := prepared(t, uuid.New(), "stranger", 30)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	var all sync.WaitGroup
	for c := range 10 {
		fresh := prepared(t, tenant, fmt.Sprint("fresh", c), 30)
		all.Go(func() {
			results, err := p.PublishPrepared(soon(t), fresh)
			for _, r := range results {
				if err != nil || r.Ack.Duplicate || r.Ack.Seq == 0 {
					t.Errorf("fresh events: %+v, %v", r, err)
					return
				}
			}
		})
		all.Go(func() {
			results, err := p.PublishPrepared(soon(t), known)
			for i, r := range results {
				if err != nil || r.Key != fmt.Sprint("known-", i) || decoded(t, stream, r.Ack.Seq).Key != r.Key {
					t.Errorf("known events: %+v, %v", r, err)
					return
				}
			}
		})
		all.Go(func() {
			if _, err := p.PublishPrepared(soon(t), stranger); !errors.Is(err, ingest.ErrNotPermitted) {
				t.Errorf("another tenant's events: %v", err)
			}
		})
		all.Go(func() {
			if results, err := p.PublishPrepared(gone, prepared(t, tenant, fmt.Sprint("gone", c), 30)); err == nil && len(results) != 30 {
				t.Errorf("who has gone: %v", results)
			}
		})
	}
	all.Wait()
}

// A few events go one by one, and still in their order: of one key, the first
// is the one that counts.
func TestAFewEventsKeepTheirOrder(t *testing.T) {
	t.Parallel()
	_, _, p := started(t, ingest.StreamConfig{}, natstest.SyncAlways())
	for _, publish := range []func(prefix string) ([]ingest.Result, error){
		func(prefix string) ([]ingest.Result, error) { return p.PublishBatch(soon(t), events(prefix, 19)) },
		func(prefix string) ([]ingest.Result, error) {
			return p.PublishPrepared(soon(t), prepared(t, tenant, prefix, 19))
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
		p = publisher(t, natstest.Run(t).Connect(t), ingest.AttemptTimeout(20*time.Millisecond))
		if _, err := publish("nowhere"); !errors.Is(err, ingest.ErrNoStream) {
			t.Errorf("without a stream: %v", err)
		}
		_, _, p = started(t, ingest.StreamConfig{})
	}
}

func TestTogetherTheyWaitForAServerThatComesBack(t *testing.T) {
	t.Parallel()
	s, stream, p := started(t, ingest.StreamConfig{})
	s.Kill()
	var all sync.WaitGroup
	for c := range 6 {
		list := prepared(t, tenant, fmt.Sprint("caller", c), 1+20*c)
		all.Go(func() {
			if _, err := p.PublishPrepared(soon(t), list); err != nil {
				t.Error(err)
			}
		})
	}
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := p.PublishPrepared(short, prepared(t, tenant, "short", 30)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("who waits no longer: %v", err)
	}
	s.Start()
	all.Wait()
	if n := messages(t, stream); n < 306 {
		t.Errorf("%d messages, want 306 or more", n)
	}
}
