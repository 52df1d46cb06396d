package ingest_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"odometer"
	"odometer/ingest"
	"odometer/ingest/natstest"
)

func openReader(t *testing.T, nc *nats.Conn, stream jetstream.Stream, o ingest.ReadOptions) *ingest.StreamReader {
	t.Helper()
	r, err := ingest.OpenReader(soon(t), nc, stream, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// sequences reads a range to its end.
func sequences(t *testing.T, nc *nats.Conn, stream jetstream.Stream, o ingest.ReadOptions) (seqs []int64) {
	t.Helper()
	r, ctx := openReader(t, nc, stream, o), soon(t)
	for {
		m, err := r.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if m == nil {
			return seqs
		}
		seqs = append(seqs, m.Position.Seq)
	}
}

func numbers(from, to int64) (list []int64) {
	for n := from; n <= to; n++ {
		list = append(list, n)
	}
	return list
}

func TestReaderReadsRangesInOrder(t *testing.T) {
	t.Parallel()
	s, stream, p := started(t, ingest.StreamConfig{})
	const total = 12_000 // more than two requests bring
	if _, err := p.PublishBatch(soon(t), events("k", total)); err != nil {
		t.Fatal(err)
	}
	nc := s.Connect(t)
	since, err := ingest.StoredTime(soon(t), nc, 7000)
	if err != nil {
		t.Fatal(err)
	}
	bySince := sequences(t, nc, stream, ingest.ReadOptions{Since: *since, To: total})
	if first := bySince[0]; first > 7000 || !slices.Equal(bySince, numbers(first, total)) {
		t.Errorf("since message 7000 was stored: %d messages from %d on", len(bySince), first)
	}
	other := fmt.Sprintf("usage.%d.%s.invoice", odometer.PartitionOf(tenant, stream.Partitions), tenant)
	for _, c := range []struct {
		options ingest.ReadOptions
		want    []int64
	}{
		{ingest.ReadOptions{}, numbers(1, total)},
		{ingest.ReadOptions{From: 11_990}, numbers(11_990, total)},
		{ingest.ReadOptions{From: 5, To: 5}, numbers(5, 5)},
		{ingest.ReadOptions{From: 7, To: 6}, nil},
		{ingest.ReadOptions{From: total + 1}, nil},
		{ingest.ReadOptions{Subjects: []string{other}}, nil},
		{ingest.ReadOptions{Subjects: []string{"usage.*.*.inbox"}, From: 100, To: 200}, numbers(100, 200)},
	} {
		if got := sequences(t, nc, stream, c.options); !slices.Equal(got, c.want) {
			t.Errorf("%+v: %d messages, want %d", c.options, len(got), len(c.want))
		}
	}
}

func TestReaderTakesStoredStatusHeadersForMessages(t *testing.T) {
	t.Parallel()
	s, stream, _ := started(t, ingest.StreamConfig{})
	nc := s.Connect(t)
	js := jetStream(t, nc)
	statuses := []string{"100", "404", "408", "409", "503"}
	for _, status := range statuses {
		m := nats.NewMsg("usage." + tenantToken + ".inbox")
		m.Header = nats.Header{"Status": {status}, "Description": {"Consumer Deleted"}}
		if _, err := js.PublishMsg(soon(t), m); err != nil {
			t.Fatal(err)
		}
	}
	if got := sequences(t, nc, stream, ingest.ReadOptions{}); !slices.Equal(got, numbers(1, int64(len(statuses)))) {
		t.Errorf("read %v", got)
	}
}

func TestReaderGoesOnAtTheEndOfTheStream(t *testing.T) {
	t.Parallel()
	s, stream, p := started(t, ingest.StreamConfig{})
	nc, ctx := s.Connect(t), soon(t)
	r := openReader(t, nc, stream, ingest.ReadOptions{From: 1})
	for seq := int64(1); seq <= 3; {
		if _, err := p.Publish(ctx, event(fmt.Sprint(seq))); err != nil {
			t.Fatal(err)
		}
		for want := seq + 1; seq < want; {
			select {
			case msg := <-r.Arrived():
				m, err := r.Accept(msg)
				if err != nil || m != nil && m.Position.Seq != seq {
					t.Fatal(m, err)
				}
				if m != nil {
					seq++
				}
			case <-ctx.Done():
				t.Fatal(ctx.Err())
			}
		}
	}
}

func TestReaderReportsGap(t *testing.T) {
	t.Parallel()
	s, stream, p := started(t, ingest.StreamConfig{})
	if _, err := p.PublishBatch(soon(t), events("k", 3)); err != nil {
		t.Fatal(err)
	}
	r, ctx := openReader(t, s.Connect(t), stream, ingest.ReadOptions{}), soon(t)
	select {
	case <-r.Arrived(): // lost on its way
	case <-ctx.Done():
		t.Fatal(ctx.Err())
	}
	if m, err := r.Next(ctx); !errors.Is(err, ingest.ErrGap) {
		t.Errorf("got %+v, %v", m, err)
	}
}

func TestReaderEndsWhenTheRestAgedOut(t *testing.T) {
	t.Parallel()
	s, stream, p := started(t, ingest.StreamConfig{})
	const total = 10_000 // the first request does not bring all
	if _, err := p.PublishBatch(soon(t), events("k", total)); err != nil {
		t.Fatal(err)
	}
	nc, ctx := s.Connect(t), soon(t)
	r := openReader(t, nc, stream, ingest.ReadOptions{})
	config := stream.CachedInfo().Config
	config.MaxAge, config.Duplicates = 200*time.Millisecond, 200*time.Millisecond
	if _, err := jetStream(t, nc).UpdateStream(ctx, config); err != nil {
		t.Fatal(err)
	}
	for messages(t, stream) > 0 {
		time.Sleep(10 * time.Millisecond)
	}
	for m, err := r.Next(ctx); m != nil || err != nil; m, err = r.Next(ctx) {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestReaderStopsWhenTheStreamIsGone(t *testing.T) {
	t.Parallel()
	s, stream, p := started(t, ingest.StreamConfig{})
	if _, err := p.PublishBatch(soon(t), events("k", 6000)); err != nil {
		t.Fatal(err)
	}
	nc, ctx := s.Connect(t), soon(t)
	r := openReader(t, nc, stream, ingest.ReadOptions{})
	if err := jetStream(t, nc).DeleteStream(ctx, ingest.StreamName); err != nil {
		t.Fatal(err)
	}
	for {
		m, err := r.Next(ctx)
		if err != nil {
			return
		}
		if m == nil {
			t.Fatal("a stream that is gone was read to its end")
		}
	}
}

func TestStoredTimeIsTheServersOwn(t *testing.T) {
	t.Parallel()
	nc := natstest.Run(t).Connect(t)
	stream := ensure(t, nc, ingest.StreamConfig{})
	m := nats.NewMsg("usage." + tenantToken + ".inbox")
	m.Header = nats.Header{"Nats-Time-Stamp": {"2001-01-01T00:00:00Z"}}
	if _, err := jetStream(t, nc).PublishMsg(soon(t), m); err != nil {
		t.Fatal(err)
	}
	info, err := stream.Info(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	stored, err := ingest.StoredTime(soon(t), nc, 1)
	if err != nil || stored == nil || !stored.Equal(info.State.LastTime) {
		t.Errorf("stored at %v, %v; want %v", stored, err, info.State.LastTime)
	}
	if none, err := ingest.StoredTime(soon(t), nc, 2); none != nil || err != nil {
		t.Errorf("a message that is not there was stored at %v, %v", none, err)
	}
}

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

func TestCountUnreadCountsOnePartition(t *testing.T) {
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
			got, err := ingest.CountUnread(soon(t), nc, partition, int64(after), int64(len(partitions)))
			if err != nil || got != want {
				t.Errorf("partition %d after %d: %d unread, want %d; %v", partition, after, got, want, err)
			}
		}
	}
}

func TestCountUnreadEndsAtTheGivenSequence(t *testing.T) {
	t.Parallel()
	nc := natstest.Run(t).Connect(t)
	partitions := filled(t, nc, ensure(t, nc, ingest.StreamConfig{}), 30)
	last := partitions[len(partitions)-1]
	previous := int64(len(partitions) - 1)
	for previous > 0 && partitions[previous-1] != last {
		previous--
	}
	got, err := ingest.CountUnread(soon(t), nc, last, previous, int64(len(partitions)-1))
	if err != nil || got != 0 {
		t.Errorf("%d unread although the next message of the partition is behind the end; %v", got, err)
	}
}

func TestCountUnreadWithoutStreamIsAnError(t *testing.T) {
	t.Parallel()
	if n, err := ingest.CountUnread(soon(t), natstest.Run(t).Connect(t), 0, 0, 1); err == nil {
		t.Errorf("%d unread in no stream", n)
	}
}
