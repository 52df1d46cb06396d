package aggregator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"odometer/aggregator/internal/aggtest"
	"odometer/aggregator/position"
	"odometer/ingest"
)

// counted compares the counters with what was acknowledged, exactly.
func (h *testEnv) counted(l aggtest.Load) {
	h.T.Helper()
	acked := l.Stop()
	h.WaitUntilRead()
	var total int64
	for tenant, n := range acked {
		total += n
		if got := h.Count(tenant, "inbox"); got != n {
			h.T.Errorf("tenant %s: counted %d, acknowledged %d", tenant, got, n)
		}
	}
	if n := h.Number(`select count(*) from usage_events`); n != total {
		h.T.Errorf("%d events, %d were acknowledged", n, total)
	}
	h.CheckCounters()
}

// logbook keeps what the aggregator logs, beside the test's output.
type logbook struct {
	slog.Handler
	mu    sync.Mutex
	lines []string
}

func (h *testEnv) logbook() (*logbook, func(*Options)) {
	j := &logbook{Handler: slog.NewTextHandler(h.T.Output(), nil)}
	return j, func(o *Options) { o.Log = slog.New(j) }
}

func (j *logbook) Handle(ctx context.Context, r slog.Record) error {
	line := r.Level.String() + " " + r.Message
	r.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	j.mu.Lock()
	j.lines = append(j.lines, line)
	j.mu.Unlock()
	return j.Handler.Handle(ctx, r)
}

// matching are the lines that hold the text.
func (j *logbook) matching(text string) []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(j.lines), func(line string) bool { return !strings.Contains(line, text) })
}

func TestSuccessorContinuesAfterKilledReader(t *testing.T) {
	t.Parallel()
	h := newEnv(t)
	l := h.StartLoad(40, h.Subscribe(5)...)
	for range 5 {
		c := newCutter()
		pool := c.pool(t, h.Pool)
		stop := h.run(func(o *Options) { o.Pool = pool })
		h.WaitForLoad(l, 300)
		// It dies in whatever it does, and the next begins at the same moment.
		c.all(true)
		next := h.run()
		stop()
		h.WaitForLoad(l, 300)
		next()
	}
	h.run()
	h.counted(l)
	h.CheckMessages()
}

// Two readers that both believe that they hold every partition: the lock fails,
// the position's compare-and-set does not.
func TestTwoReadersOfOnePartitionCountNothingTwice(t *testing.T) {
	t.Parallel()
	h := newEnv(t)
	l := h.StartLoad(10, h.Subscribe(5)...)
	var sessions sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var moved atomic.Int64
	for range 2 {
		sessions.Go(func() {
			a := h.aggregator()
			for ctx.Err() == nil {
				lease, err := openLease(ctx, h.Pool)
				if err != nil {
					if ctx.Err() == nil {
						t.Error(err)
					}
					return
				}
				for p := range 4 {
					lease.held[p] = true // without asking anyone
				}
				err = a.session(ctx, lease, func() {})
				lease.close()
				if ctx.Err() == nil && !errors.Is(err, position.ErrMoved) {
					t.Errorf("a session ended with %v", err)
				}
				moved.Add(1)
			}
		})
	}
	h.Eventually("they meet", func() bool { return moved.Load() > 20 })
	h.counted(l)
	cancel()
	sessions.Wait()
	h.CheckMessages()
}

func TestSecondReaderStandsByAndTakesOver(t *testing.T) {
	t.Parallel()
	h := newEnv(t)
	l := h.StartLoad(10, h.Subscribe(5)...)
	holders := func() int64 {
		return h.Number(`select count(distinct pid) from pg_locks where locktype = 'advisory' and classid = $1 and granted and database = (
			select oid from pg_database where datname = current_database())`, lockClass)
	}
	first := h.run()
	h.Eventually("the first reads", func() bool { return holders() == 1 })
	j, keep := h.logbook()
	h.run(keep)
	h.Eventually("the second stands by", func() bool { return len(j.matching("stands by")) == 1 })
	h.WaitForLoad(l, 200)
	if n := holders(); n != 1 {
		t.Errorf("%d readers hold partitions, want 1", n)
	}
	if lines := j.matching("aggregator reads"); len(lines) != 0 {
		t.Errorf("the second reads beside the first: %v", lines)
	}
	first()
	went := time.Now()
	h.Eventually("the second goes on", func() bool { return len(j.matching("aggregator reads")) > 0 })
	if took := time.Since(went); took > 5*time.Second {
		t.Errorf("the second went on after %v", took)
	}
	h.WaitForLoad(l, 200)
	h.counted(l)
	h.CheckMessages()
}

// A reader that attaches while another counts must not take the other's
// progress for a stream that has become shorter.
func TestAttachBesideReaderFindsNoLoss(t *testing.T) {
	t.Parallel()
	h := newEnv(t)
	l := h.StartLoad(3, h.Subscribe(5)...)
	h.run()
	h.WaitForLoad(l, 50)
	for range 150 {
		if _, err := h.aggregator().attach(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := h.Number(`select count(*) from stream_epochs`); n != 1 {
		t.Errorf("%d epochs, want 1: nothing was lost", n)
	}
	h.counted(l)
}

// Under load the reading goes on without a break: no poll of the stream's end
// is taken for a loss, and nothing is logged.
func TestReaderIsStableUnderLoad(t *testing.T) {
	t.Parallel()
	h := newEnv(t)
	tenants := h.Subscribe(5)
	j, keep := h.logbook()
	h.run(keep)
	h.attach()
	var all []testMessage
	for n := range 500 {
		all = append(all, usage(tenants[n%5], fmt.Sprint(n), 1).encode())
	}
	// Mostly repeats: they keep the reader busiest.
	for until := time.Now().Add(3 * time.Second); time.Now().Before(until); { // six polls
		h.publishAll(all)
	}
	h.WaitUntilRead()
	if n := h.Number(`select count(*) from usage_events`); n != 500 {
		t.Errorf("%d events, want 500", n)
	}
	if lines := j.matching("WARN aggregator waits"); len(lines) != 0 {
		t.Errorf("it broke off: %v", lines)
	}
	if lines := j.matching("reads partitions="); len(lines) != 1 {
		t.Errorf("it began %d times, want once", len(lines))
	}
}

// hold locks some partitions for somebody else.
func (h *testEnv) hold(partitions ...int) (release func()) {
	h.T.Helper()
	other, err := openLease(h.T.Context(), h.Pool)
	if err != nil {
		h.T.Fatal(err)
	}
	for _, p := range partitions {
		if _, err := other.conn.Exec(h.T.Context(), `select pg_advisory_lock($1, $2)`, lockClass, p); err != nil {
			h.T.Fatal(err)
		}
	}
	h.T.Cleanup(other.close)
	return other.close
}

func TestReaderTakesFreedPartitions(t *testing.T) {
	t.Parallel()
	h := newEnv(t)
	tenants := h.Subscribe(9)
	h.attach()
	release := h.hold(0, 2)
	l := h.StartLoad(10, tenants...)
	h.run()
	h.WaitForLoad(l, 100)
	h.Eventually("its own partitions are read", func() bool {
		return h.Number(`select min(seq) from stream_positions where partition in (1, 3)`) > 100
	})
	if n := h.Number(`select max(seq) from stream_positions where partition in (0, 2)`); n != 0 {
		t.Errorf("partitions that another holds are read to %d", n)
	}
	release()
	h.WaitForLoad(l, 100)
	h.counted(l)
	h.CheckMessages()
}

// When it is stopped, it finishes the batch in hand, however long that takes.
func TestStopFinishesBatch(t *testing.T) {
	t.Parallel()
	h := newEnvFor(t, ingest.StreamConfig{Partitions: 1})
	tenant := h.Subscribe(1)[0]
	h.attach()
	tx, err := h.Pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context())
	if _, err := tx.Exec(t.Context(), `select from stream_positions for update`); err != nil {
		t.Fatal(err)
	}
	h.Publish(email(tenant, "in hand", 1))
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.aggregator().Run(ctx) }()
	h.Eventually("the batch waits", func() bool {
		return h.Number(`
			select count(*) from pg_stat_activity
			where datname = current_database() and wait_event_type = 'Lock' and query like '%update stream_positions%'`) == 1
	})
	stop()
	h.lasts(100 * time.Millisecond)
	select {
	case err := <-done:
		t.Fatalf("it returned before the batch was through: %v", err)
	default:
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := h.Count(tenant, "inbox"); n != 1 {
		t.Errorf("counted %d, want 1", n)
	}
}

// Messages as large as can be, more than one request to the server takes.
func TestLargeMessagesAreReadToo(t *testing.T) {
	t.Parallel()
	h := newEnv(t)
	tenants := h.Subscribe(4)
	j, keep := h.logbook()
	h.run(keep)
	pad := `"pad":"` + strings.Repeat("x", 64000) + `"`
	var all []testMessage
	for n := range 400 { // 25 MB
		all = append(all, usage(tenants[n%4], fmt.Sprint(n), 1).encode(pad))
	}
	h.publishAll(all)
	h.WaitUntilRead()
	for _, tenant := range tenants {
		if n := h.Count(tenant, "inbox"); n != 100 {
			t.Errorf("counted %d, want 100", n)
		}
	}
	if lines := j.matching("aggregator waits"); len(lines) != 0 {
		t.Errorf("it broke off: %v", lines)
	}
	h.CheckMessages()
}

// Each time a counter crosses its limit it is logged, once, and not again when
// the stream is read again.
func TestCrossedLimitIsLoggedOnce(t *testing.T) {
	t.Parallel()
	h := newEnvFor(t, ingest.StreamConfig{Partitions: 1})
	tenant := h.Subscribe(1)[0] // 500 e-mails
	j, keep := h.logbook()
	stop := h.run(keep)
	for _, send := range []testMessage{usage(tenant, "a", 500), usage(tenant, "b", 7), usage(tenant, "c", 1), correction(tenant, "d", -20), usage(tenant, "e", 13)} {
		h.publishAll([]testMessage{send.encode()})
		h.WaitUntilRead()
	}
	stop()
	if _, err := h.Pool.Exec(t.Context(), `update stream_positions set seq = 0, stored_at = null`); err != nil {
		t.Fatal(err)
	}
	h.run(keep)
	h.WaitUntilRead()
	lines := j.matching("a counter has crossed its limit")
	if len(lines) != 2 || !strings.Contains(lines[0], "overage=7") || !strings.Contains(lines[1], "overage=1") {
		t.Errorf("logged %q, want an overage of 7 and then of 1", lines)
	}
}
