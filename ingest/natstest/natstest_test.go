package natstest_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"odometer/ingest/natstest"
)

func published(t *testing.T, nc *nats.Conn, want uint64) {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if want == 1 {
		if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
			t.Fatal(err)
		}
	}
	ack, err := js.Publish(ctx, "s", []byte("x"), jetstream.WithRetryAttempts(1000), jetstream.WithRetryWait(10*time.Millisecond))
	if err != nil || ack.Sequence != want {
		t.Fatalf("acknowledged with %+v, %v; want sequence %d", ack, err, want)
	}
}

func TestStoreAndAddressOutliveTheServer(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	url := s.URL()
	nc := s.Connect(t)
	published(t, nc, 1)
	s.Stop()
	s.Stop()
	s.Start()
	published(t, nc, 2)
	s.Kill()
	s.Start()
	published(t, nc, 3)

	overTCP, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer overTCP.Close()
	published(t, overTCP, 4)
	if s.URL() != url {
		t.Errorf("the address went from %s to %s", url, s.URL())
	}
}

func TestTailCanBeCutOff(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t, natstest.SyncAlways())
	nc := s.Connect(t)
	published(t, nc, 1)
	s.Stop()
	saved := s.Save()
	s.Start()
	published(t, nc, 2)
	for range 2 {
		s.Stop()
		s.Restore(saved)
		s.Start()
		published(t, nc, 2)
	}
}
