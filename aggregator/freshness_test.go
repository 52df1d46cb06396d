package aggregator

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"

	"odometer"
	"odometer/aggregator/internal/aggtest"
	"odometer/ingest"
)

// storedTimes are the times at which the stream stored its messages, by
// partition.
func (h *testEnv) storedTimes() map[int][]time.Time {
	h.T.Helper()
	stream, err := h.JetStream.Stream(h.T.Context(), ingest.StreamName)
	if err != nil {
		h.T.Fatal(err)
	}
	consumer, err := stream.CreateConsumer(h.T.Context(), jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy})
	if err != nil {
		h.T.Fatal(err)
	}
	found := map[int][]time.Time{}
	for read := uint64(0); read < stream.CachedInfo().State.LastSeq; {
		batch, err := consumer.FetchNoWait(5000)
		if err != nil {
			h.T.Fatal(err)
		}
		for msg := range batch.Messages() {
			meta, err := msg.Metadata()
			if err != nil {
				h.T.Fatal(err)
			}
			_, partition, _, _, _ := ingest.ParseStored(msg.Subject())
			found[partition] = append(found[partition], meta.Timestamp)
			read++
		}
	}
	return found
}

// complete_until never claims to be complete beyond what is counted, and never takes a
// claim back, while messages arrive and readers change.
func TestCompleteUntilNeverClaimsTooMuch(t *testing.T) {
	t.Parallel()
	h := newEnv(t)
	tenants := h.Subscribe(9)
	var partitions []int
	for _, tenant := range tenants {
		partitions = append(partitions, odometer.PartitionOf(tenant, 4))
	}
	h.attach()
	stop := h.run()
	loads := []aggtest.Load{h.StartLoad(3, tenants[:4]...), h.StartLoad(30, tenants[4:]...)}
	type claim struct {
		Partition int
		Until     *time.Time
		Events    int
	}
	var claims []claim
	last := map[int]time.Time{}
	changed := 0
	check := func() {
		rows, _ := h.Pool.Query(t.Context(), `
			select p.partition, p.complete_until as until, (
				select count(*) from usage_events e
				join unnest($1::uuid[], $2::int[]) as t (tenant_id, partition) using (tenant_id)
				where t.partition = p.partition and e.recorded_at <= p.complete_until
			) as events
			from stream_positions p`, tenants, partitions)
		found, err := pgx.CollectRows(rows, pgx.RowToStructByName[claim])
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range found {
			if c.Until == nil {
				if !last[c.Partition].IsZero() {
					t.Errorf("partition %d: a claim was forgotten", c.Partition)
				}
				continue
			}
			if c.Until.Before(last[c.Partition]) {
				t.Errorf("partition %d: a claim went back from %v to %v", c.Partition, last[c.Partition], c.Until)
			}
			if c.Until.After(last[c.Partition]) {
				changed++
			}
			last[c.Partition] = *c.Until
			claims = append(claims, c)
		}
	}
	for range 3 {
		h.Eventually("it was checked for a while", func() bool { check(); return len(claims) > 0 && changed%200 > 150 })
		stop()
		changed = 0
		stop = h.run()
	}
	for _, l := range loads {
		l.Stop()
	}
	h.WaitUntilRead()
	check()
	stored := h.storedTimes()
	for _, c := range claims {
		due := 0
		for _, at := range stored[c.Partition] {
			if !at.After(*c.Until) {
				due++
			}
		}
		if c.Events < due {
			t.Errorf("partition %d claims to be complete until %v with %d events, but %d were stored", c.Partition, c.Until, c.Events, due)
		}
	}
	t.Logf("%d claims over %d events", len(claims), h.Number(`select count(*) from usage_events`))
}

// Where nothing happens, complete_until still advances.
func TestCompleteUntilAdvancesOnIdleStream(t *testing.T) {
	t.Parallel()
	h := newEnv(t)
	h.Publish(email(h.Subscribe(1)[0], "only", 1))
	h.run()
	h.WaitUntilRead()
	const untilSQL = `select (extract(epoch from coalesce(min(complete_until), 'epoch')) * 1000)::bigint from stream_positions`
	for range 2 {
		before, began := h.Number(untilSQL), time.Now()
		h.Eventually("it is complete until later", func() bool { return h.Number(untilSQL) > before })
		if took := time.Since(began); took > 7*time.Second {
			t.Errorf("it took %v", took)
		}
		if behind := time.Since(time.UnixMilli(h.Number(untilSQL))); behind > 7*time.Second {
			t.Errorf("complete until %v ago", behind)
		}
	}
}

// A partition without messages is known to be complete as far as the stream was
// read, also while others keep the reader from ever reaching its end.
func TestCompleteUntilAdvancesOnQuietPartition(t *testing.T) {
	t.Parallel()
	h := newEnv(t)
	tenant := h.Subscribe(1)[0]
	busy := odometer.PartitionOf(tenant, 4)
	h.attach()
	var all []testMessage
	for n := range 15_000 {
		all = append(all, usage(tenant, fmt.Sprint(n), 1).encode())
	}
	last := h.publishAll(all)
	h.run(func(o *Options) { o.BatchSize = 10 })
	known := func() bool {
		return h.Number(`select count(*) from stream_positions where partition <> $1 and complete_until is not null`, busy) == 3
	}
	h.Eventually("the quiet partitions are known", known)
	if at := h.Number(`select seq from stream_positions where partition = $1`, busy); at >= last {
		t.Errorf("only when everything was read")
	}
}
