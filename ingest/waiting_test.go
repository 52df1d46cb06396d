package ingest_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"odometer/ingest"
	"odometer/ingest/natstest"
)

// filled lets agents of some tenants, and hostile ones, fill the stream. It
// returns each message's partition, by its sequence less one.
func filled(t *testing.T, nc *nats.Conn, stream *ingest.Stream, n int) []int {
	t.Helper()
	js := jetStream(t, nc)
	tenants := []string{"*", uuid.NewString(), uuid.NewString(), uuid.NewString()}
	partitions := make([]int, n)
	for i := range partitions {
		m := nats.NewMsg("usage." + tenants[rand.IntN(len(tenants))] + ".inbox")
		m.Data = fmt.Appendf(nil, "%d", i)
		m.Header = nats.Header{"Nats-Num-Pending": {"7000"}, "Nats-Sequence": {"1"}, "Status": {"404"}}
		if _, err := js.PublishMsg(soon(t), m); err != nil {
			t.Fatal(err)
		}
		kept, err := stream.GetMsg(soon(t), uint64(i+1))
		if err != nil {
			t.Fatal(err)
		}
		_, partitions[i], _, _, _ = ingest.ParseStored(kept.Subject)
	}
	return partitions
}

// What waits for a partition's reader is what it has not read, and no message
// of another partition.
func TestWhatWaitsIsOfThePartitionAlone(t *testing.T) {
	t.Parallel()
	nc := natstest.Run(t).Connect(t)
	stream := ensure(t, nc, ingest.StreamConfig{})
	partitions := filled(t, nc, stream, 40)
	for partition := range stream.Partitions {
		for after := range len(partitions) + 2 {
			var want int64
			for _, p := range partitions[min(after, len(partitions)):] {
				if p == partition {
					want++
				}
			}
			got, err := ingest.Waiting(soon(t), nc, partition, int64(after), int64(len(partitions)))
			if err != nil || got != want {
				t.Errorf("partition %d after %d: %d wait, want %d; %v", partition, after, got, want, err)
			}
		}
	}
}

// What was stored later does not wait yet, for whoever looks at an earlier end.
func TestWhatWaitsEndsWhereItIsAskedTo(t *testing.T) {
	t.Parallel()
	nc := natstest.Run(t).Connect(t)
	partitions := filled(t, nc, ensure(t, nc, ingest.StreamConfig{}), 30)
	last := partitions[len(partitions)-1]
	previous := int64(len(partitions) - 1)
	for previous > 0 && partitions[previous-1] != last {
		previous--
	}
	got, err := ingest.Waiting(soon(t), nc, last, previous, int64(len(partitions)-1))
	if err != nil || got != 0 {
		t.Errorf("%d wait although the next message of the partition is behind the end; %v", got, err)
	}
}

func TestWhatWaitsIsNotKnownWithoutAStream(t *testing.T) {
	t.Parallel()
	if n, err := ingest.Waiting(soon(t), natstest.Run(t).Connect(t), 0, 0, 1); err == nil {
		t.Errorf("%d wait in no stream", n)
	}
}
