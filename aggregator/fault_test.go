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
func mixture(h *house, m *model, messages int) []said {
	h.t.Helper()
	g := &generator{Rand: rand.New(rand.NewPCG(7, 7))}
	h.attach()
	g.lay(h, m, h.t.Name(), 0)
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
func TestACrashAtAnyStepLeavesTheBooksExact(t *testing.T) {
	t.Parallel()
	rows := []struct {
		name  string
		where side
		sql   string
		skip  int
	}{
		{"after the fetch, before the transaction", goingOut, "begin", 0},
		{"the transaction has begun", answered, "begin", 2},
		{"before the count", goingOut, countSQL, 1},
		{"after the count", answered, countSQL, 3},
		{"before repeats are compared", goingOut, claimsSQL, 0},
		{"after repeats were compared", answered, claimsSQL, 1},
		{"before dead letters", goingOut, bookDeadLettersSQL, 0},
		{"after dead letters", answered, bookDeadLettersSQL, 1},
		{"before the batch is booked", goingOut, bookBatchSQL, 2},
		{"after the batch is booked", answered, bookBatchSQL, 0},
		{"before commit", goingOut, "commit", 1},
		{"commit whose answer is lost", answered, "commit", 1},
		{"after commit, before the next batch", goingOut, "begin", 3},
		{"every third commit's answer is lost", answered, "commit", 3},
		{"before a refused batch is undone", goingOut, "rollback", 0},
		{"a refused batch was undone", answered, "rollback", 0},
		{"before the balance is read", goingOut, balanceSQL, 0},
		{"before the position is read", goingOut, loadPlacesSQL, 0},
		{"after the position was read", answered, loadPlacesSQL, 0},
		{"before the terms are read", goingOut, rulesVersionSQL, 0},
		{"after the terms were read", answered, rulesVersionSQL, 0},
		{"before a lock", goingOut, tryLockSQL, 0},
		{"after a lock", answered, tryLockSQL, 0},
		{"before the epochs are read", goingOut, loadEpochsSQL, 0},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			h := newHouseFor(t, ingest.StreamConfig{Partitions: 1})
			m := newModel()
			all := mixture(h, m, 60)
			c := newCutter()
			pool := c.pool(t, h.pool)
			done := c.at(row.where, row.sql, row.skip, 2)
			j, keep := h.logbook()
			h.run(keep, func(o *Options) { o.Pool, o.BatchSize = pool, 7 })
			h.tell(m, 1, all)
			h.settled()
			if done() == 0 {
				t.Error("nothing was cut: the row shows nothing")
			}
			for _, line := range j.said("aggregator waits") {
				if !strings.Contains(line, "for=Postgres") {
					t.Errorf("said %q, want that it waits for Postgres", line)
				}
			}
			h.agree(m, odometer.Position{})
			h.balanced()
			h.accounted()
		})
	}
	t.Run("before a position is only advanced", func(t *testing.T) {
		t.Parallel()
		for _, where := range []side{goingOut, answered} {
			h := newHouse(t)
			m := newModel()
			all := mixture(h, m, 20)
			c := newCutter()
			pool := c.pool(t, h.pool)
			done := c.at(where, advanceSQL, 0, 2)
			h.run(func(o *Options) { o.Pool = pool })
			h.tell(m, 1, all)
			h.settled()
			h.eventually("the wire is cut", func() bool { return done() == 2 })
			h.agree(m, odometer.Position{})
			h.balanced()
			h.accounted()
		}
	})
}

// A batch waits for its commit while the next is read and decoded; when it
// fails then, the next must not be counted in its place.
func TestABatchThatFailsTakesThePreparedOneWithIt(t *testing.T) {
	t.Parallel()
	h := newHouseFor(t, ingest.StreamConfig{Partitions: 1})
	tenant := h.subscribe(1)[0]
	m := newModel()
	m.know(h, tenant)
	h.run(func(o *Options) { o.BatchSize = 5 })
	h.tell(m, 1, []said{usage(tenant, "first", 1).encode()})
	h.settled()

	tx, err := h.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context())
	if _, err := tx.Exec(t.Context(), loadPlacesLockedSQL); err != nil {
		t.Fatal(err)
	}
	var all []said
	for n := range 23 {
		all = append(all, usage(tenant, strings.Repeat("k", n+1), 1).encode())
	}
	last := h.tell(m, 1, all)
	const waitingSQL = `
		select count(*) from pg_stat_activity
		where datname = current_database() and wait_event_type = 'Lock' and query like '%update stream_positions%'`
	h.eventually("the first batch waits", func() bool { return h.number(waitingSQL) == 1 })
	h.eventually("the rest is delivered", func() bool {
		stream, err := h.js.Stream(t.Context(), ingest.StreamName)
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
	if n := h.number(`
		select count(pg_terminate_backend(pid)) from pg_stat_activity
		where datname = current_database() and wait_event_type = 'Lock' and query like '%update stream_positions%'`); n != 1 {
		t.Fatalf("%d batches were waiting, want 1", n)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.settled()
	h.agree(m, odometer.Position{})
	h.balanced()
	h.accounted()
	rows, _ := h.pool.Query(t.Context(), `select from_seq - lag(to_seq, 1, 0::bigint) over (order by batch_id) from batches`)
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
