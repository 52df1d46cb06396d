package aggregator

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"

	"odometer"
	"odometer/ingest"
)

// tail makes messages of every kind for the tenants: news, repeats and
// conflicts of earlier ones, malformed messages.
func tail(name string, n int, earlier []testMessage, tenants ...uuid.UUID) []testMessage {
	var all []testMessage
	for i := range n {
		tenant := tenants[i%len(tenants)]
		switch i % 7 {
		default:
			all = append(all, usage(tenant, fmt.Sprintf("%s %d", name, i), int64(i%3+1)).encode())
		case 3:
			all = append(all, testMessage{subject: ingest.Subject(odometer.Usage, tenant, "inbox"), payload: "malformed " + name, flaw: odometer.Malformed})
		case 4:
			if len(earlier) > 0 {
				all = append(all, earlier[i%len(earlier)])
			} else {
				all = append(all, usage(tenant, fmt.Sprintf("%s %d", name, i), int64(i%3+1)).encode())
			}
		case 5:
			// The same keys in every tail, not always with the same quantity.
			all = append(all, usage(tenant, fmt.Sprint("again ", i), int64(len(name)%2+1)).encode())
		}
	}
	return all
}

// lose takes the stream's tail away, back to a saved store.
func (h *testEnv) lose(saved string) {
	h.T.Helper()
	h.Server.Stop()
	h.Server.Restore(saved)
	h.start()
}

// start starts the stopped server and waits until the environment is connected.
func (h *testEnv) start() {
	h.T.Helper()
	h.Server.Start()
	h.Eventually("connected again", h.NATS.IsConnected)
}

func (h *testEnv) save() string {
	h.T.Helper()
	h.Server.Stop()
	saved := h.Server.Save()
	h.start()
	return saved
}

// union is what the counters must be: by key, everything that was ever counted.
func (h *testEnv) union(m *model) {
	h.T.Helper()
	want := map[uuid.UUID]int64{}
	for key, s := range m.owners {
		want[key.tenant] += s.quantity
	}
	for tenant, n := range want {
		if got := h.Count(tenant, "inbox"); got != n {
			h.T.Errorf("tenant %s: counted %d, want %d", tenant, got, n)
		}
	}
	if n := h.Number(`select count(*) from usage_events`); n != int64(len(m.owners)) {
		h.T.Errorf("%d events, want %d", n, len(m.owners))
	}
}

// What a stream has lost stays counted, what it holds now is counted too, and
// each dead letter is there once; it is found, said, and a new epoch begins.
func TestLostTailCountsNothingTwice(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name       string
		partial    int  // messages before the cut
		lost       int  // and behind it
		again      int  // messages published in their place
		running    bool // the aggregator runs while they are published
		racing     bool // and has not found the loss before
		idle       bool // it was started again, and had nothing to read, before the loss
		partitions int
	}{
		{name: "nothing in its place", partial: 40, lost: 30, again: 0, partitions: 4},
		{name: "fewer", partial: 40, lost: 30, again: 20, partitions: 4},
		{name: "as many", partial: 40, lost: 30, again: 30, partitions: 4},
		{name: "more", partial: 40, lost: 30, again: 50, partitions: 4},
		{name: "more, one partition", partial: 40, lost: 30, again: 50, partitions: 1},
		{name: "fewer, running", partial: 40, lost: 30, again: 20, running: true, partitions: 4},
		{name: "more, running", partial: 40, lost: 30, again: 50, running: true, partitions: 4},
		{name: "fewer, while it is found", partial: 40, lost: 30, again: 20, running: true, racing: true, partitions: 4},
		{name: "more, while it is found", partial: 40, lost: 30, again: 50, running: true, racing: true, partitions: 4},
		{name: "one message, another in its place", partial: 40, lost: 1, again: 1, partitions: 4},
		{name: "everything", partial: 0, lost: 30, again: 50, partitions: 4},
		{name: "more, after an idle start", partial: 40, lost: 30, again: 50, idle: true, partitions: 4},
		{name: "more, after an idle start, one partition", partial: 40, lost: 30, again: 50, idle: true, partitions: 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			h := newEnvFor(t, ingest.StreamConfig{Partitions: row.partitions})
			tenants := h.Subscribe(5)
			m := newModel()
			m.know(h, tenants...)
			j, keep := h.logbook()
			small := func(o *Options) { o.BatchSize = 7 }
			stop := h.run(keep, small)
			var before []testMessage
			if row.partial > 0 {
				before = tail("kept", row.partial, nil, tenants...)
				h.publishModelled(m, 1, before)
			}
			h.WaitUntilRead()
			saved := h.save()
			h.publishModelled(m, 1, tail("lost", row.lost, before, tenants...))
			h.WaitUntilRead()
			if row.idle {
				stop()
				stop = h.run(keep, small)
				since := h.Number(`select extract(epoch from max(complete_until))::bigint from stream_positions`)
				h.Eventually("it says that there is nothing", func() bool {
					return h.Number(`select extract(epoch from min(complete_until))::bigint from stream_positions`) > since+1
				})
			}
			if !row.running {
				stop()
			}
			h.lose(saved)
			if row.running && !row.racing {
				h.Eventually("it is found", func() bool { return len(j.matching("a new epoch begins")) == 1 })
			}
			if row.again > 0 {
				h.publishModelled(m, 2, tail("instead", row.again, before, tenants...))
			}
			if !row.running {
				h.run(keep, small)
			}
			h.Eventually("it is found", func() bool { return len(j.matching("a new epoch begins")) == 1 })
			h.Eventually("the epoch is raised", func() bool {
				return h.Number(`select min(stream_epoch) from stream_positions`) == 2
			})
			h.WaitUntilRead()
			h.union(m)
			h.agree(m, odometer.Position{})
			h.CheckCounters()
			if lines := j.matching("a new epoch begins"); len(lines) != 1 || !strings.HasPrefix(lines[0], "ERROR") {
				t.Errorf("logged %q, want one error", lines)
			}
			if n := h.Number(`select first_seq from stream_epochs where epoch = 2`); n != int64(row.partial+1) {
				t.Errorf("the new epoch begins at %d, want %d", n, row.partial+1)
			}
			if n := h.Number(`select count(*) from stream_positions where stored_at is null and seq > 0`); n != 0 {
				t.Errorf("of %d positions nobody knows when their message was stored", n)
			}
		})
	}
}

// A stream that loses its tail twice, the second time behind and then before
// the first cut.
func TestTailIsLostRepeatedly(t *testing.T) {
	t.Parallel()
	h := newEnv(t)
	tenants := h.Subscribe(5)
	m := newModel()
	m.know(h, tenants...)
	j, keep := h.logbook()
	found := func(times int) {
		h.T.Helper()
		h.Eventually("it is found", func() bool { return len(j.matching("a new epoch begins")) == times })
		h.WaitUntilRead()
	}
	h.run(keep, func(o *Options) { o.BatchSize = 3 })
	h.publishModelled(m, 1, tail("one", 20, nil, tenants...))
	h.WaitUntilRead()
	at20 := h.save()
	h.publishModelled(m, 1, tail("two", 20, nil, tenants...))
	h.WaitUntilRead()
	at40 := h.save()
	h.publishModelled(m, 1, tail("three", 20, nil, tenants...))
	h.WaitUntilRead()
	h.lose(at40)
	found(1)
	h.publishModelled(m, 2, tail("four", 30, nil, tenants...))
	h.WaitUntilRead()
	h.lose(at20)
	found(2)
	h.publishModelled(m, 3, tail("five", 60, nil, tenants...))
	h.WaitUntilRead()
	h.lose(at20)
	found(3)
	h.publishModelled(m, 4, tail("six", 10, nil, tenants...))
	h.WaitUntilRead()
	h.union(m)
	h.agree(m, odometer.Position{})
	h.CheckCounters()
}

func TestRecreatedStreamIsReadFromItsBeginning(t *testing.T) {
	t.Parallel()
	for _, running := range []bool{false, true} {
		t.Run(fmt.Sprint("running ", running), func(t *testing.T) {
			t.Parallel()
			h := newEnv(t)
			tenants := h.Subscribe(5)
			m := newModel()
			m.know(h, tenants...)
			j, keep := h.logbook()
			stop := h.run(keep)
			_, second := h.logbook()
			stopSecond := h.run(second) // stands by, and must not go on with what it knew
			before := tail("before", 30, nil, tenants...)
			h.publishModelled(m, 1, before)
			h.WaitUntilRead()
			if !running {
				stop()
				stopSecond()
			}
			if err := h.JetStream.DeleteStream(t.Context(), ingest.StreamName); err != nil {
				t.Fatal(err)
			}
			if _, err := ingest.EnsureStream(t.Context(), h.JetStream, h.Config); err != nil {
				t.Fatal(err)
			}
			if running {
				h.Eventually("it is found", func() bool { return h.Number(`select count(*) from stream_epochs`) == 2 })
				stop()
			} else {
				h.run(keep)
			}
			h.publishModelled(m, 2, tail("after", 50, before, tenants...))
			h.Eventually("it is found", func() bool { return h.Number(`select min(stream_epoch) from stream_positions`) == 2 })
			h.WaitUntilRead()
			h.union(m)
			h.agree(m, odometer.Position{})
			h.CheckCounters()
			if n := len(j.matching("a new epoch begins")); !running && n != 1 {
				t.Errorf("logged %d times, want once", n)
			}
		})
	}
}

// A batch whose last message was not known when it was recorded must not keep a
// lost tail from being found.
func TestBatchWithoutStoredTimeDoesNotHideLoss(t *testing.T) {
	t.Parallel()
	h := newEnv(t)
	tenants := h.Subscribe(5)
	m := newModel()
	m.know(h, tenants...)
	stop := h.run()
	h.publishModelled(m, 1, tail("kept", 10, nil, tenants...))
	h.WaitUntilRead()
	saved := h.save()
	h.publishModelled(m, 1, tail("lost", 10, nil, tenants...))
	h.WaitUntilRead()
	stop()
	// As when all messages age out while the last batch waits.
	if _, err := h.Pool.Exec(t.Context(), `update batches set last_stored_at = null where batch_id = (select max(batch_id) from batches)`); err != nil {
		t.Fatal(err)
	}
	h.lose(saved)
	j, keep := h.logbook()
	h.run(keep)
	h.Eventually("it is found", func() bool { return len(j.matching("a new epoch begins")) == 1 })
	h.publishModelled(m, 2, tail("again", 10, nil, tenants...))
	h.WaitUntilRead()
	h.union(m)
	h.CheckCounters()
}
