package replay

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"odometer"
	"odometer/aggregator/deadletter"
	"odometer/aggregator/internal/aggtest"
	"odometer/ingest"
	"odometer/ingest/publisher"
	"odometer/internal/testenv"
)

func TestFullReplayChangesNothing(t *testing.T) {
	t.Parallel()
	h := newEnv(t, testenv.Options{})
	tenants := tenants(5)
	h.history(tenants)
	was, changed := h.full(), h.Number(`select sum(rules_version)::bigint from stream_positions`)
	for _, dry := range []bool{true, false} {
		done := h.replay(func(o *Options) { o.DryRun = dry })
		if done.Applied != 0 || done.NewDead != 0 || len(done.Negative) != 0 {
			t.Errorf("dry %t: %+v", dry, done)
		}
		if done.Read != h.LastSeq() || done.Events+done.Duplicates+done.DeadLetters != done.Read || done.Through != done.Read {
			t.Errorf("dry %t: %d messages, but %+v", dry, h.LastSeq(), done)
		}
	}
	h.same(was)
	if n := h.Number(`select sum(rules_version)::bigint from stream_positions`); n != changed {
		t.Error("a replay that changes nothing has disturbed the readers")
	}
}

// Emptied tables are rebuilt to exactly what they were: by one replay, by one
// that is stopped again and again, and without knowing what batches said.
func TestReplayRebuildsEmptiedTablesExactly(t *testing.T) {
	t.Parallel()
	h := newEnv(t, testenv.Options{})
	tenants := tenants(5)
	h.history(tenants)
	was := h.full()
	empty := func() {
		t.Helper()
		if _, err := h.Pool.Exec(t.Context(), emptySQL); err != nil {
			t.Fatal(err)
		}
	}
	empty()
	dry := h.replay(func(o *Options) { o.DryRun = true })
	if n := h.Number(`select count(*) from usage_events`); n != 0 {
		t.Fatalf("a dry run stored %d events", n)
	}
	done := h.replay()
	h.same(was)
	h.CheckCounters()
	if dry.Applied != done.Applied || done.Applied != int64(len(was.Counted.Events)) || dry.Read != done.Read {
		t.Errorf("dry run: %+v\nreplay: %+v", dry, done)
	}
	empty()
	runs := h.replayInPieces()
	h.same(was)
	if runs < 3 {
		t.Errorf("the replay was stopped %d times only", runs)
	}
	empty()
	for n := range tenants {
		h.replay(func(o *Options) { o.Tenant, o.Batch = &tenants[n], 7 })
	}
	h.same(was)
	empty()
	if _, err := h.Pool.Exec(t.Context(), `delete from batches`); err != nil {
		t.Fatal(err)
	}
	was.Batches = 0
	h.replay()
	h.same(was)
}

// Some events are lost, some counters wrong: what is missing comes back, each
// counter of a restored event is right, and the rest stays as it is.
func TestReplayRestoresWhatIsMissing(t *testing.T) {
	t.Parallel()
	h := newEnv(t, testenv.Options{})
	tenants := tenants(3)
	h.history(tenants)
	was := h.full()
	for _, sql := range []string{
		// In the first, counters stay right; in the second, they are lost or wrong.
		`delete from usage_events where stream_seq % 3 = 0`,
		`delete from usage_events where stream_seq % 5 < 3;
		 delete from usage_counters where agent = 'inbox' and tenant_id = '` + tenants[0].String() + `';
		 update usage_counters set count = 1 where tenant_id = '` + tenants[1].String() + `'`,
		// Usage is lost, what corrects it is not.
		`delete from usage_events where kind = 'usage'`,
	} {
		if _, err := h.Pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
		h.run() // beside a reader that has nothing to do
		if done := h.replay(); done.NewDead != 0 || len(done.Negative) != 0 {
			t.Errorf("%+v", done)
		}
		h.same(was)
		h.CheckCounters()
	}
}

// A replay from the middle into emptied tables restores a correction that counted,
// says that its counter cannot be right, and the whole replay makes it right.
func TestReplayFromTheMiddleKeepsCorrections(t *testing.T) {
	t.Parallel()
	h := newEnv(t, testenv.Options{})
	tenant := h.Subscribe(1)[0]
	stop := h.run()
	h.publishWithoutID(testenv.Email(tenant, "use", 10))
	h.publishWithoutID(correction(tenant, "take", -7))
	h.publishWithoutID(correction(tenant, "more", -7))
	h.WaitUntilRead()
	stop()
	was := h.full()
	if _, err := h.Pool.Exec(t.Context(), emptySQL); err != nil {
		t.Fatal(err)
	}
	done := h.replay(func(o *Options) { o.From = 2 })
	if done.Applied != 1 || done.NewDead != 1 || len(done.Negative) != 1 || done.Negative[0].Sum != -7 {
		t.Errorf("from the middle: %+v", done)
	}
	if done = h.replay(); done.Applied != 1 || len(done.Negative) != 0 {
		t.Errorf("from the beginning: %+v", done)
	}
	h.same(was)
}

// A retried dead letter's event keeps its position, and a replay puts it into the
// period of its retry, though a close before and one after that retry have the
// same position.
func TestRetriedEventKeepsItsPositionInReplay(t *testing.T) {
	t.Parallel()
	h := newEnv(t, testenv.Options{Stream: ingest.StreamConfig{Partitions: 1}})
	tenant := testenv.Tenant(0)
	start := time.Now().AddDate(0, 0, -80).UTC().Truncate(time.Microsecond)
	h.SetPeriod(tenant, start, start.AddDate(0, 0, 30))
	stop := h.run()
	events := []publisher.Event{aggtest.Reply(tenant, "one", 1), aggtest.Reply(tenant, "two", 2), aggtest.Reply(tenant, "three", 4)}
	for i := range events {
		events[i].OccurredAt = start.AddDate(0, 0, 5)
		h.Publish(events[i])
	}
	h.WaitUntilRead()
	stop()
	h.ApplyCatalogue(aggtest.ReplyCatalogue())
	starts := []time.Time{}
	for n := range 3 {
		starts = append(starts, time.UnixMicro(h.Number(`
			select (extract(epoch from period_start) * 1000000)::bigint from billing_periods order by period_start offset $1 limit 1`, n)))
	}
	for n := range events {
		if got := h.retry(deadletter.Selection{IDs: []odometer.Position{{Epoch: 1, Seq: int64(n + 1)}}}); got["retried"] != 1 || len(got) != 1 {
			t.Errorf("retried: %v, want one", got)
		}
		if n < 2 {
			h.ClosePeriod(tenant, starts[n], odometer.Position{Epoch: 1, Seq: 3})
		}
	}
	was := h.full()
	for n, quantity := range []int64{1, 2, 4} {
		if got := h.Number(`select count from usage_counters where period_start = $1`, starts[n]); got != quantity {
			t.Fatalf("period %d counts %d, want %d", n, got, quantity)
		}
		if seq := h.Number(`select stream_seq from usage_events where quantity = $1`, quantity); seq != int64(n+1) {
			t.Errorf("event of %d lies at %d, want its own position", quantity, seq)
		}
	}
	if _, err := h.Pool.Exec(t.Context(), emptySQL); err != nil {
		t.Fatal(err)
	}
	if done := h.replay(); done.Applied != 3 || done.NewDead != 0 {
		t.Errorf("%+v", done)
	}
	h.same(was)
}

// A replay restores while readers count: nothing is counted twice or lost, and
// a correction waits for the usage that it corrects.
func TestReplayBesideLiveReaders(t *testing.T) {
	t.Parallel()
	h := newEnv(t, testenv.Options{})
	tenants := h.Subscribe(4)
	stop := h.run()
	var events []publisher.Event
	for n := range 4000 {
		events = append(events, testenv.Email(tenants[n%4], fmt.Sprint("before ", n), 1))
	}
	h.Publish(events...)
	h.WaitUntilRead()
	stop()
	if _, err := h.Pool.Exec(t.Context(), emptySQL); err != nil {
		t.Fatal(err)
	}
	first := make(chan struct{})
	go func() {
		<-first
		// All of the usage that is being rebuilt, and not one unit more.
		for _, tenant := range tenants {
			for _, n := range []int64{-1000, -1} {
				e := publisher.Event{Adjustment: true, Tenant: tenant, Agent: "inbox", IdempotencyKey: fmt.Sprint(n), Quantity: n}
				if _, err := h.Publisher.Publish(context.WithoutCancel(t.Context()), e); err != nil {
					t.Error(err)
				}
			}
		}
		h.run()
		h.run()
	}()
	steps := 0
	done := h.replay(func(o *Options) {
		o.Batch = 20
		o.Progress = func(Result) {
			if steps++; steps == 10 {
				close(first)
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
	if done.Applied != 4000 || done.NewDead != 0 {
		t.Errorf("%+v", done)
	}
	l := h.StartLoad(2, tenants...)
	h.WaitForLoad(l, 50)
	h.replay()
	acked := l.Stop()
	h.WaitUntilRead()
	for _, tenant := range tenants {
		if n := h.Count(tenant, "inbox"); n != acked[tenant] {
			t.Errorf("tenant %s: %d counted, want %d", tenant, n, acked[tenant])
		}
	}
	if n := h.Number(`select count(*) from dead_letters where reason = 'negative_balance'`); n != 4 {
		t.Errorf("%d corrections refused, want the 4 that take one too much", n)
	}
	h.CheckCounters()
	h.CheckMessages()
}

// What a partition's reader has not read is not the replay's business, also
// where other partitions are further.
func TestReplayLeavesUnreadMessagesToReader(t *testing.T) {
	t.Parallel()
	h := newEnv(t, testenv.Options{})
	tenant := h.Subscribe(1)[0]
	h.createPositions()
	h.Publish(testenv.Email(tenant, "one", 1), testenv.Email(tenant, "two", 1))
	if _, err := h.Pool.Exec(t.Context(), `update stream_positions set seq = 1 where partition <> $1`, odometer.PartitionOf(tenant, 4)); err != nil {
		t.Fatal(err)
	}
	if done := h.replay(); done.Applied != 0 || done.Unread != 1 {
		t.Errorf("%+v", done)
	}
	h.run()
	h.WaitUntilRead()
	if n := h.Count(tenant, "inbox"); n != 2 {
		t.Errorf("counted %d, want 2", n)
	}
	h.CheckMessages()
}

// A stream that is not the one that was read is not replayed.
func TestReplayRefusesAnotherStream(t *testing.T) {
	t.Parallel()
	h := newEnv(t, testenv.Options{})
	o := Options{Pool: h.Pool, NATS: h.NATS}
	if _, err := Run(t.Context(), o); !errors.Is(err, ErrUnfit) {
		t.Errorf("never read: %v", err)
	}
	h.createPositions()
	if _, err := h.Pool.Exec(t.Context(), `update stream_positions set seq = 7`); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), o); !errors.Is(err, ErrUnfit) {
		t.Errorf("shorter than it was read: %v", err)
	}
}
