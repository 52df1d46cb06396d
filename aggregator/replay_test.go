package aggregator

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"odometer"
	"odometer/ingest"
)

func (h *house) replay(change ...func(*ReplayOptions)) Replayed {
	h.t.Helper()
	o := ReplayOptions{Pool: h.pool, NATS: h.nc, Batch: 50}
	for _, c := range change {
		c(&o)
	}
	done, err := Replay(h.t.Context(), o)
	if err != nil {
		h.t.Fatal(err)
	}
	return done
}

// history is a partition's life with everything in it: late events of a closed
// period, duplicates, conflicts, refused and counted corrections, letters that
// were retried before and after corrections that depend on them, duplicates
// among letters, and discards.
func (h *house) history(tenants []uuid.UUID) {
	h.t.Helper()
	start := time.Now().AddDate(0, 0, -40).UTC().Truncate(time.Microsecond)
	for _, tenant := range tenants {
		h.set(tenant, start, start.AddDate(0, 0, 30))
	}
	stop := h.run()
	random := rand.New(rand.NewPCG(1, 2))
	part := func(name string, when time.Time) {
		var all []said
		for n := range 240 {
			tenant := tenants[n%len(tenants)]
			s := usage(tenant, fmt.Sprintf("%s %d", name, random.IntN(150)), int64(1+random.IntN(2)))
			if n%7 == 0 {
				s = correction(tenant, fmt.Sprintf("%s %d", name, n), -int64(1+random.IntN(12)))
			}
			if n%35 == 0 {
				s.quantity = -1000 // never
			}
			if n%11 == 0 && s.kind == odometer.Usage {
				s.action, s.key = "email_replied", fmt.Sprintf("%s reply %d", name, random.IntN(6))
			}
			s.occurred = when
			all = append(all, s.encode())
		}
		h.publishAll(all)
		h.settled()
	}
	early := start.AddDate(0, 0, 5)
	part("early", early)
	h.apply(withReplies())
	h.retry(Selection{Reason: odometer.UnknownAction, Tenant: &tenants[0]})
	part("more", early)
	for _, tenant := range tenants[:2] { // nothing arrives between these: a close, retries, and again
		h.close(tenant, start, odometer.Position{Epoch: 1, Seq: h.streamEnd()})
	}
	h.retry(Selection{Reason: odometer.NegativeBalance, Tenant: &tenants[0]})
	h.retry(Selection{Reason: odometer.UnknownAction, Tenant: &tenants[1]})
	part("late", early)
	part("now", time.Time{})
	h.retry(Selection{Reason: odometer.UnknownAction})
	if err := Discard(h.t.Context(), h.pool, Selection{Reason: odometer.NegativeBalance, Tenant: &tenants[1]}, "test", "because", func(Outcome) {}); err != nil {
		h.t.Fatal(err)
	}
	h.retry(Selection{Reason: odometer.NegativeBalance})
	stop()
	for _, sql := range []string{
		`select count(*) from dead_letters where state = 'open' and reason = 'negative_balance'`,
		`select count(*) from dead_letters where state = 'open' and reason = 'idempotency_conflict'`,
		`select count(*) from dead_letters where state = 'retried' and reason = 'negative_balance'`,
		`select count(*) from dead_letters where state = 'retried' and reason = 'unknown_action'`,
		`select count(*) from dead_letters where state = 'duplicate'`,
		`select count(*) from dead_letters where state = 'discarded'`,
		`select count(*) from usage_events where occurred_at < period_start`,
		`select count(*) from usage_events where kind = 'adjustment'`,
		`select sum(duplicates)::bigint from batches`,
	} {
		if h.number(sql) == 0 {
			h.t.Fatalf("the history lacks: %s", sql)
		}
	}
}

// full is all that a replay must leave or make again.
type full struct {
	Books   books
	Last    []string // of each counter
	States  []string
	Batches int64
}

func (h *house) full() full {
	h.t.Helper()
	f := full{Books: h.books(), Batches: h.number(`select count(*) from batches`)}
	for sql, into := range map[string]*[]string{
		`select concat_ws(' ', tenant_id, agent, period_start, last_event_at) from usage_counters where count > 0 order by 1`:                           &f.Last,
		`select concat_ws(' ', stream_seq, state, retry_epoch, retry_seq, retry_closed_until, why) from dead_letters order by stream_epoch, stream_seq`: &f.States,
	} {
		rows, err := h.pool.Query(h.t.Context(), sql)
		if err != nil {
			h.t.Fatal(err)
		}
		for rows.Next() {
			var line string
			if err := rows.Scan(&line); err != nil {
				h.t.Fatal(err)
			}
			*into = append(*into, line)
		}
	}
	return f
}

func (h *house) same(was full) {
	h.t.Helper()
	if diff := cmp.Diff(was, h.full()); diff != "" {
		h.t.Errorf("books (-before +after):\n%s", diff)
	}
}

func TestFullReplayChangesNothing(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	tenants := h.subscribed(5)
	h.history(tenants)
	was, changed := h.full(), h.number(`select sum(terms)::bigint from stream_positions`)
	for _, dry := range []bool{true, false} {
		done := h.replay(func(o *ReplayOptions) { o.DryRun = dry })
		if done.Applied != 0 || done.NewDead != 0 || len(done.Negative) != 0 {
			t.Errorf("dry %t: %+v", dry, done)
		}
		if done.Read != h.streamEnd() || done.Events+done.Duplicates+done.DeadLetters != done.Read || done.Through != done.Read {
			t.Errorf("dry %t: %d messages, but %+v", dry, h.streamEnd(), done)
		}
	}
	h.same(was)
	if n := h.number(`select sum(terms)::bigint from stream_positions`); n != changed {
		t.Error("a replay that changes nothing has disturbed the readers")
	}
}

// subscribed are tenants whose subscription the test sets itself.
func (h *house) subscribed(n int) (tenants []uuid.UUID) {
	for i := range n {
		tenants = append(tenants, tenantOf(i))
	}
	return tenants
}

const emptySQL = `
delete from usage_events;
delete from usage_counters;
delete from dead_letters where state = 'open'`

// Emptied books are rebuilt to exactly what they were: by one replay, by one
// that is stopped again and again, and without knowing what batches said.
func TestReplayRebuildsEmptiedBooksExactly(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	tenants := h.subscribed(5)
	h.history(tenants)
	was := h.full()
	empty := func() {
		t.Helper()
		if _, err := h.pool.Exec(t.Context(), emptySQL); err != nil {
			t.Fatal(err)
		}
	}
	empty()
	dry := h.replay(func(o *ReplayOptions) { o.DryRun = true })
	if n := h.number(`select count(*) from usage_events`); n != 0 {
		t.Fatalf("a dry run stored %d events", n)
	}
	done := h.replay()
	h.same(was)
	h.balanced()
	if dry.Applied != done.Applied || done.Applied != int64(len(was.Books.Events)) || dry.Read != done.Read {
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
		h.replay(func(o *ReplayOptions) { o.Tenant, o.Batch = &tenants[n], 7 })
	}
	h.same(was)
	empty()
	if _, err := h.pool.Exec(t.Context(), `delete from batches`); err != nil {
		t.Fatal(err)
	}
	was.Batches = 0
	h.replay()
	h.same(was)
}

// replayInPieces stops a replay after some steps and goes on from where it came.
func (h *house) replayInPieces() (runs int) {
	h.t.Helper()
	for from := int64(0); ; runs++ {
		ctx, stop := context.WithCancel(h.t.Context())
		steps := 0
		done, err := Replay(ctx, ReplayOptions{Pool: h.pool, NATS: h.nc, Batch: 30, From: from, Progress: func(Replayed) {
			if steps++; steps == 5 {
				stop()
			}
		}})
		stop()
		if err == nil {
			return runs
		}
		if !errors.Is(err, context.Canceled) || done.Through < from-1 {
			h.t.Fatalf("from %d: %+v: %v", from, done, err)
		}
		from = done.Through + 1
	}
}

// Some events are lost, some counters wrong: what is missing comes back, each
// counter of a restored event is right, and the rest stays as it is.
func TestReplayRestoresWhatIsMissing(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	tenants := h.subscribed(3)
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
		if _, err := h.pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
		h.run() // beside a reader that has nothing to do
		if done := h.replay(); done.NewDead != 0 || len(done.Negative) != 0 {
			t.Errorf("%+v", done)
		}
		h.same(was)
		h.balanced()
	}
}

// A retried letter's event keeps its position, and a replay puts it into the
// period of its retry, though a close before and one after that retry have the
// same position.
func TestRetriedEventKeepsItsPlaceInReplay(t *testing.T) {
	t.Parallel()
	h := newHouseFor(t, ingest.StreamConfig{Partitions: 1})
	tenant := tenantOf(0)
	start := time.Now().AddDate(0, 0, -80).UTC().Truncate(time.Microsecond)
	h.set(tenant, start, start.AddDate(0, 0, 30))
	stop := h.run()
	events := []ingest.Event{reply(tenant, "one", 1), reply(tenant, "two", 2), reply(tenant, "three", 4)}
	for i := range events {
		events[i].OccurredAt = start.AddDate(0, 0, 5)
		h.publish(events[i])
	}
	h.settled()
	stop()
	h.apply(withReplies())
	starts := []time.Time{}
	for n := range 3 {
		starts = append(starts, time.UnixMicro(h.number(`
			select (extract(epoch from period_start) * 1000000)::bigint from billing_periods order by period_start offset $1 limit 1`, n)))
	}
	for n := range events {
		h.expectRetry(Selection{IDs: []odometer.Position{{Epoch: 1, Seq: int64(n + 1)}}}, map[string]int{"retried": 1})
		if n < 2 {
			h.close(tenant, starts[n], odometer.Position{Epoch: 1, Seq: 3})
		}
	}
	was := h.full()
	for n, quantity := range []int64{1, 2, 4} {
		if got := h.number(`select count from usage_counters where period_start = $1`, starts[n]); got != quantity {
			t.Fatalf("period %d counts %d, want %d", n, got, quantity)
		}
		if seq := h.number(`select stream_seq from usage_events where quantity = $1`, quantity); seq != int64(n+1) {
			t.Errorf("event of %d lies at %d, want its own position", quantity, seq)
		}
	}
	if _, err := h.pool.Exec(t.Context(), emptySQL); err != nil {
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
	h := newHouse(t)
	tenants := h.subscribe(4)
	stop := h.run()
	var events []ingest.Event
	for n := range 4000 {
		events = append(events, email(tenants[n%4], fmt.Sprint("before ", n), 1))
	}
	h.publish(events...)
	h.settled()
	stop()
	if _, err := h.pool.Exec(t.Context(), emptySQL); err != nil {
		t.Fatal(err)
	}
	first := make(chan struct{})
	go func() {
		<-first
		// All of the usage that is being rebuilt, and not one unit more.
		for _, tenant := range tenants {
			for _, n := range []int64{-1000, -1} {
				e := ingest.Event{Kind: odometer.Adjustment, Tenant: tenant, Agent: "inbox", IdempotencyKey: fmt.Sprint(n), Quantity: n}
				if _, err := h.pub.Publish(context.WithoutCancel(t.Context()), e); err != nil {
					t.Error(err)
				}
			}
		}
		h.run()
		h.run()
	}()
	steps := 0
	done := h.replay(func(o *ReplayOptions) {
		o.Batch = 20
		o.Progress = func(Replayed) {
			if steps++; steps == 10 {
				close(first)
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
	if done.Applied != 4000 || done.NewDead != 0 {
		t.Errorf("%+v", done)
	}
	l := h.load(2, tenants...)
	h.flows(l, 50)
	h.replay()
	acked := l.stop()
	h.settled()
	for _, tenant := range tenants {
		if n := h.count(tenant, "inbox"); n != acked[tenant] {
			t.Errorf("tenant %s: %d counted, want %d", tenant, n, acked[tenant])
		}
	}
	if n := h.number(`select count(*) from dead_letters where reason = 'negative_balance'`); n != 4 {
		t.Errorf("%d corrections refused, want the 4 that take one too much", n)
	}
	h.balanced()
	h.accounted()
}

// What the aggregator has not read is not the replay's business.
func TestReplayLeavesTheUnreadToTheReader(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	tenant := h.subscribe(1)[0]
	stop := h.run()
	h.publish(email(tenant, "read", 1))
	h.settled()
	stop()
	h.publish(email(tenant, "unread", 1))
	done := h.replay()
	if done.Applied != 0 || h.count(tenant, "inbox") != 1 {
		t.Errorf("%+v", done)
	}
	h.run()
	h.settled()
	if n := h.count(tenant, "inbox"); n != 2 {
		t.Errorf("counted %d, want 2", n)
	}
	h.accounted()
}

// A stream that is not the one that was read is not replayed into its books.
func TestReplayRefusesAnotherStream(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	o := ReplayOptions{Pool: h.pool, NATS: h.nc}
	if _, err := Replay(t.Context(), o); !errors.Is(err, ErrReplayUnfit) {
		t.Errorf("never read: %v", err)
	}
	h.attach()
	if _, err := h.pool.Exec(t.Context(), `update stream_positions set seq = 7`); err != nil {
		t.Fatal(err)
	}
	if _, err := Replay(t.Context(), o); !errors.Is(err, ErrReplayUnfit) {
		t.Errorf("shorter than it was read: %v", err)
	}
}
