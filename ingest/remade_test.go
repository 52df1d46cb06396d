package ingest_test

import (
	"context"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"odometer/ingest"
	"odometer/ingest/natstest"
)

// Who looks for the stream while somebody deletes it sees no error, and what
// is made anew keeps what it is given.
func TestAStreamDeletedUnderThoseWhoLookForItIsMadeAnewWhole(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	js := jetStream(t, server.Connect(t))
	ensure(t, server.Connect(t), ingest.StreamConfig{})
	for range 10 {
		looking, end := lookForStream(soon(t), js)
		if err := js.DeleteStream(soon(t), ingest.StreamName); err != nil {
			t.Fatal(err)
		}
		stream := ensure(t, server.Connect(t), ingest.StreamConfig{})
		if ack, err := newPublisher(t, server.Connect(t)).Publish(soon(t), event("k")); err != nil || ack.Seq != 1 {
			t.Fatal(ack, err)
		}
		if _, err := stream.GetMsg(soon(t), 1); err != nil {
			t.Fatal(err)
		}
		end()
		if err := looking.Wait(); err != nil {
			t.Fatal(err)
		}
	}
}

// lookForStream has four look for it, over and over, until they are told to end.
func lookForStream(ctx context.Context, js jetstream.JetStream) (looking *errgroup.Group, end func()) {
	looking, ending := new(errgroup.Group), make(chan struct{})
	for range 4 {
		looking.Go(func() error {
			for {
				select {
				case <-ending:
					return nil
				default:
				}
				if _, err := ingest.EnsureStream(ctx, js, ingest.StreamConfig{}); err != nil {
					return err
				}
			}
		})
	}
	return looking, func() { close(ending) }
}
