package publisher_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"odometer/ingest"
	"odometer/ingest/natstest"
	"odometer/ingest/publisher"
)

func TestEndedContextMeansUnknownOutcome(t *testing.T) {
	t.Parallel()
	s, _, p := started(t, ingest.StreamConfig{})
	s.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := p.Publish(ctx, event("k1"))
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), `usage.`+tenantToken+`.inbox, key "k1"`) || !strings.Contains(err.Error(), "publish the same bytes again") {
		t.Errorf("got %v", err)
	}
	results, err := p.PublishBatch(ctx, events("k", 3))
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(results[2].Err, context.DeadlineExceeded) {
		t.Errorf("batch: %v", err)
	}
}

func TestFullStreamRefusesAndDropsNothing(t *testing.T) {
	t.Parallel()
	_, stream, p := started(t, ingest.StreamConfig{MaxBytes: 64 << 10})
	acked := 0
	for i := 0; ; i++ {
		results, err := p.PublishBatch(soon(t), events(fmt.Sprint(i), 20))
		if err != nil {
			if !errors.Is(err, publisher.ErrStreamFull) {
				t.Fatal(err)
			}
			break
		}
		acked += len(results)
	}
	var err error
	for i := 0; err == nil; i++ {
		if _, err = p.Publish(soon(t), event(fmt.Sprint("single", i))); err == nil {
			acked++
		}
	}
	if !errors.Is(err, publisher.ErrStreamFull) {
		t.Error(err)
	}
	if n := messages(t, stream); n != acked || acked < 100 {
		t.Errorf("%d messages stored, %d acknowledged", n, acked)
	}
}

func TestMissingStreamErrorSaysWhatToStart(t *testing.T) {
	t.Parallel()
	nc := natstest.Run(t).Connect(t)
	p := newPublisher(t, nc, publisher.AttemptTimeout(20*time.Millisecond))
	_, err := p.Publish(t.Context(), event("k1"))
	if !errors.Is(err, publisher.ErrNoStream) || !strings.Contains(err.Error(), "odometer run") {
		t.Errorf("got %v", err)
	}
	_, err = p.PublishBatch(t.Context(), events("k", 2))
	if !errors.Is(err, publisher.ErrNoStream) {
		t.Errorf("batch: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err = newPublisher(t, nc).Publish(ctx, event("k1")); !errors.Is(err, publisher.ErrNoStream) {
		t.Errorf("within a short deadline: %v", err)
	}
}

func TestPublishWaitsForStreamBeingCreated(t *testing.T) {
	t.Parallel()
	nc := natstest.Run(t).Connect(t)
	p := newPublisher(t, nc)
	done := make(chan error)
	go func() {
		_, err := p.Publish(soon(t), event("k1"))
		done <- err
	}()
	ensure(t, nc, ingest.StreamConfig{})
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// tenantsOnly lets the user "agent" publish for one tenant, and "admin" do all.
func tenantsOnly(o *server.Options) {
	o.Users = []*server.User{
		{Username: "admin", Password: "x"},
		{Username: "agent", Password: "x", Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: []string{"usage." + tenantToken + ".>"}},
			Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX_agent.>"}},
		}},
	}
}

func TestMissingPermissionIsReportedAtOnce(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t, tenantsOnly)
	stream := ensure(t, s.Connect(t, nats.UserInfo("admin", "x")), ingest.StreamConfig{})
	heard := make(chan error, 100)
	nc := s.Connect(t, nats.UserInfo("agent", "x"), nats.CustomInboxPrefix("_INBOX_agent"),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { heard <- err }))
	p := newPublisher(t, nc, publisher.AttemptTimeout(time.Hour))
	if _, err := p.Publish(soon(t), event("k1")); err != nil {
		t.Fatal(err)
	}

	foreign := event("k2")
	foreign.Tenant = uuid.New()
	_, err := p.Publish(t.Context(), foreign)
	if !errors.Is(err, publisher.ErrNotPermitted) || !strings.Contains(err.Error(), foreign.Tenant.String()) {
		t.Errorf("got %v", err)
	}
	if err := <-heard; !errors.Is(err, nats.ErrPermissionViolation) {
		t.Errorf("the connection's own handler heard %v", err)
	}

	for _, c := range []struct{ n, at int }{{10, 0}, {10, 5}, {10, 9}, {30, 0}, {30, 15}, {30, 29}} { // one by one, and atomically
		list := events(fmt.Sprint("batch", c), c.n)
		list[c.at].Tenant = foreign.Tenant
		results, err := p.PublishBatch(t.Context(), list)
		if !errors.Is(err, publisher.ErrNotPermitted) {
			t.Errorf("batch %v: %v", c, err)
		}
		for i, r := range results {
			if errors.Is(r.Err, publisher.ErrNotPermitted) != (i == c.at) || (r.Err == nil) != (i != c.at) {
				t.Errorf("batch %v, event %d: %v", c, i, r.Err)
			}
		}
	}
	if n := messages(t, stream); n != 1+3*9+3*29 {
		t.Errorf("%d messages, want %d", n, 1+3*9+3*29)
	}
}

func TestPermanentServerErrorIsReturnedAtOnce(t *testing.T) {
	t.Parallel()
	_, _, p := started(t, ingest.StreamConfig{}, func(o *server.Options) { o.MaxPayload = 1 << 10 })
	big := event("k1")
	big.Metadata = []byte(`{"a":"` + strings.Repeat("x", 2<<10) + `"}`)
	if _, err := p.Publish(t.Context(), big); !errors.Is(err, nats.ErrMaxPayload) {
		t.Errorf("got %v", err)
	}
	for _, beside := range []int{1, 20} { // one by one, and atomically
		list := append(events(fmt.Sprint("small", beside), beside), big, event(fmt.Sprint("last", beside)))
		results, err := p.PublishBatch(t.Context(), list)
		if !errors.Is(err, nats.ErrMaxPayload) || results[0].Err != nil || !errors.Is(results[beside].Err, nats.ErrMaxPayload) || results[beside+1].Err != nil {
			t.Errorf("batch: %+v", results)
		}
	}
	nc := natstest.Run(t).Connect(t)
	p = newPublisher(t, nc)
	nc.Close()
	if _, err := p.Publish(t.Context(), event("k1")); !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("got %v", err)
	}
}

func TestSealedStreamErrorIsReturnedAtOnce(t *testing.T) {
	t.Parallel()
	s, stream, p := started(t, ingest.StreamConfig{})
	c := stream.CachedInfo().Config
	c.Sealed = true
	if _, err := jetStream(t, s.Connect(t)).UpdateStream(soon(t), c); err != nil {
		t.Fatal(err)
	}
	var refused *jetstream.APIError
	if _, err := p.Publish(t.Context(), event("k1")); !errors.As(err, &refused) || refused.ErrorCode != 10109 {
		t.Errorf("got %v", err)
	}
	if _, err := p.PublishBatch(t.Context(), events("k", 3)); !errors.As(err, &refused) {
		t.Errorf("batch: %v", err)
	}
}
