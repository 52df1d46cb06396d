package aggregator

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"odometer"
	"odometer/ingest"
)

// mixture is a stream that needs every statement the aggregator has: events,
// repeats, conflicts, dead letters, corrections that are refused, and events
// without a period.
func mixture(h *testEnv, m *model, messages int) []testMessage {
	h.T.Helper()
	g := &generator{Rand: rand.New(rand.NewPCG(7, 7))}
	h.attach()
	g.createPeriods(h, m, h.T.Name(), 0)
	all := g.stream(messages)
	// Whatever was drawn: one of each.
	a := g.tenants[rolling]
	return append(all,
		usage(a, "mixture 1", 5).encode(), usage(a, "mixture 1", 6).encode(), usage(a, "mixture 1", 5).encode(),
		correction(a, "mixture 2", -1_000_000).encode(), correction(a, "mixture 3", -2).encode(),
	)
}

// A crash at any step costs nothing and counts nothing twice, and what was
// begun goes on by itself.
func TestCrashAtAnyStepCountsExactlyOnce(t *testing.T) {
	t.Parallel()
	rows := []struct {
		name  string
		where side
		sql   string
		skip  int
	}{
		{"after the fetch, before the transaction", goingOut, "begin", 0},
		{"the transaction has begun", answered, "begin", 2},
		{"before the count", goingOut, "insert into usage_events", 1},
		{"after the count", answered, "insert into usage_events", 3},
		{"before key owners are compared", goingOut, "with owned as materialized", 0},
		{"after key owners were compared", answered, "with owned as materialized", 1},
		{"before dead letters", goingOut, "insert into dead_letters", 0},
		{"after dead letters", answered, "insert into dead_letters", 1},
		{"before the batch is recorded", goingOut, "insert into batches", 2},
		{"after the batch is recorded", answered, "insert into batches", 0},
		{"before commit", goingOut, "commit", 1},
		{"commit whose answer is lost", answered, "commit", 1},
		{"after commit, before the next batch", goingOut, "begin", 3},
		{"every third commit's answer is lost", answered, "commit", 3},
		{"before a refused batch is undone", goingOut, "rollback", 0},
		{"a refused batch was undone", answered, "rollback", 0},
		{"before the balance is read", goingOut, "select c.count\nfrom usage_counters", 0},
		{"before the position is read", goingOut, "from stream_positions\norder by partition", 0},
		{"after the position was read", answered, "from stream_positions\norder by partition", 0},
		{"before the rules version is read", goingOut, "select rules_version\nfrom stream_positions", 0},
		{"after the rules version was read", answered, "select rules_version\nfrom stream_positions", 0},
		{"before a lock", goingOut, tryLockSQL, 0},
		{"after a lock", answered, tryLockSQL, 0},
		{"before the epochs are read", goingOut, "from stream_epochs\norder by epoch", 0},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			h := newEnvFor(t, ingest.StreamConfig{Partitions: 1})
			m := newModel()
			all := mixture(h, m, 60)
			c := newCutter()
			pool := c.pool(t, h.Pool)
			done := c.at(row.where, row.sql, row.skip, 2)
			j, keep := h.logbook()
			h.run(keep, func(o *Options) { o.Pool, o.BatchSize = pool, 7 })
			h.publishModelled(m, 1, all)
			h.WaitUntilRead()
			if done() == 0 {
				t.Error("nothing was cut: the row shows nothing")
			}
			for _, line := range j.matching("aggregator waits") {
				if !strings.Contains(line, "reason=Postgres") {
					t.Errorf("logged %q, want that it waits for Postgres", line)
				}
			}
			h.agree(m, odometer.Position{})
			h.CheckCounters()
			h.CheckMessages()
		})
	}
	t.Run("before a position is only advanced", func(t *testing.T) {
		t.Parallel()
		for _, where := range []side{goingOut, answered} {
			h := newEnv(t)
			m := newModel()
			all := mixture(h, m, 20)
			c := newCutter()
			pool := c.pool(t, h.Pool)
			done := c.at(where, "set seq = $4", 0, 2)
			h.run(func(o *Options) { o.Pool = pool })
			h.publishModelled(m, 1, all)
			h.WaitUntilRead()
			h.Eventually("the wire is cut", func() bool { return done() == 2 })
			h.agree(m, odometer.Position{})
			h.CheckCounters()
			h.CheckMessages()
		}
	})
}

// A batch waits for its commit while the next is read and decoded; when it
// fails then, the next must not be counted instead.
func TestFailedBatchDropsThePreparedOne(t *testing.T) {
	t.Parallel()
	h := newEnvFor(t, ingest.StreamConfig{Partitions: 1})
	tenant := h.Subscribe(1)[0]
	m := newModel()
	m.know(h, tenant)
	h.run(func(o *Options) { o.BatchSize = 5 })
	h.publishModelled(m, 1, []testMessage{usage(tenant, "first", 1).encode()})
	h.WaitUntilRead()

	tx, err := h.Pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context())
	if _, err := tx.Exec(t.Context(), `select from stream_positions for update`); err != nil {
		t.Fatal(err)
	}
	var all []testMessage
	for n := range 23 {
		all = append(all, usage(tenant, strings.Repeat("k", n+1), 1).encode())
	}
	last := h.publishModelled(m, 1, all)
	const waitingSQL = `
		select count(*) from pg_stat_activity
		where datname = current_database() and wait_event_type = 'Lock' and query like '%update stream_positions%'`
	h.Eventually("the first batch waits", func() bool { return h.Number(waitingSQL) == 1 })
	h.Eventually("the rest is delivered", func() bool {
		stream, err := h.JetStream.Stream(t.Context(), ingest.StreamName)
		if err != nil {
			t.Fatal(err)
		}
		for info := range stream.ListConsumers(t.Context()).Info() {
			if int64(info.Delivered.Stream) == last {
				return true
			}
		}
		return false
	})
	if n := h.Number(`
		select count(pg_terminate_backend(pid)) from pg_stat_activity
		where datname = current_database() and wait_event_type = 'Lock' and query like '%update stream_positions%'`); n != 1 {
		t.Fatalf("%d batches were waiting, want 1", n)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.WaitUntilRead()
	h.agree(m, odometer.Position{})
	h.CheckCounters()
	h.CheckMessages()
	rows, _ := h.Pool.Query(t.Context(), `select from_seq - lag(to_seq, 1, 0::bigint) over (order by batch_id) from batches`)
	steps, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		t.Fatal(err)
	}
	for n, step := range steps {
		if step != 1 {
			t.Errorf("batch %d begins %d after the end of the one before it, want 1", n, step)
		}
	}
}
