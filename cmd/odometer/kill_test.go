package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer/ingest/natstest"
	"odometer/ingest/publisher"
	"odometer/internal/soak"
	"odometer/migrations/pgtest"
)

// load publishes to many tenants until it is stopped, and remembers what the
// stream has acknowledged.
type load struct {
	tenants      []uuid.UUID
	acknowledged []atomic.Int64 // units by tenant
	total        atomic.Int64
	stop         context.CancelFunc
	done         sync.WaitGroup
}

func startLoad(t *testing.T, server *natstest.Server, tenants []uuid.UUID) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{tenants: tenants, acknowledged: make([]atomic.Int64, len(tenants)), stop: cancel}
	for range 4 {
		pub, err := publisher.New(server.Connect(t))
		if err != nil {
			t.Fatal(err)
		}
		l.done.Go(func() {
			for ctx.Err() == nil {
				l.publish(t, pub)
			}
		})
	}
	return l
}

// publish sends one batch; an agent whose answer is lost sends it again.
func (l *load) publish(t *testing.T, pub *publisher.Publisher) {
	events := make([]publisher.Event, 20)
	from := make([]int, len(events))
	for i := range events {
		from[i] = rand.IntN(len(l.tenants))
		events[i] = publisher.Event{
			Tenant: l.tenants[from[i]], Agent: "inbox", ActionType: "email_processed",
			IdempotencyKey: uuid.NewString(), Quantity: int64(1 + rand.IntN(9)),
		}
	}
	for range 1 + rand.IntN(2) {
		if _, err := pub.PublishBatch(context.WithoutCancel(t.Context()), events); err != nil {
			t.Errorf("publish: %v", err)
			return
		}
	}
	for i, e := range events {
		l.acknowledged[from[i]].Add(e.Quantity)
	}
	l.total.Add(int64(len(events)))
}

// finish stops publishing and waits for what is under way.
func (l *load) finish() {
	l.stop()
	l.done.Wait()
}

// waitFor waits until a condition holds.
func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for !is() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

func counted(t *testing.T, pool *pgxpool.Pool, tenant uuid.UUID) (n int64) {
	t.Helper()
	err := pool.QueryRow(t.Context(), `select coalesce(sum(count), 0)::bigint from usage_counters where tenant_id = $1`, tenant).Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func openPool(t *testing.T, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// subscribeMany gives n new tenants the bundle for the current time.
func subscribeMany(t *testing.T, database string, n int) []uuid.UUID {
	t.Helper()
	tenants := make([]uuid.UUID, n)
	now := time.Now().UTC()
	for i := range tenants {
		tenants[i] = uuid.New()
		must(t, "subscription", "set", "--database-url", database, "--tenant", tenants[i].String(),
			"--plan", "price_bundle_monthly", "--status", "active",
			"--period-start", now.AddDate(0, 0, -5).Format(time.RFC3339), "--period-end", now.AddDate(0, 0, 20).Format(time.RFC3339))
	}
	return tenants
}

func TestTenKillsLoseAndDoubleNothing(t *testing.T) {
	t.Parallel()
	database, server := pgtest.URL(t), natstest.Run(t)
	must(t, "catalogue", "apply", "--database-url", database)
	tenants := subscribeMany(t, database, 6)
	pool := openPool(t, database)
	publishing := false
	var l *load
	events := func() (n int64) {
		if err := pool.QueryRow(t.Context(), `select count(*) from usage_events`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	rounds := soak.Rounds(t, 3, 11)
	for round := range rounds {
		cmd := program(t, nil, "run", "aggregator", "--database-url", database, "--nats-url", server.URL(), "--ops-addr", "127.0.0.1:0")
		cmd.Stderr = t.Output()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if !publishing {
			waitFor(t, "the aggregator has made the stream", func() bool {
				var n int
				_ = pool.QueryRow(t.Context(), `select count(*) from stream_positions`).Scan(&n)
				return n > 0
			})
			l, publishing = startLoad(t, server, tenants), true
		}
		before, enough := events(), int64(50+rand.IntN(400))
		waitFor(t, fmt.Sprintf("round %d has counted %d more", round, enough), func() bool { return events() >= before+enough })
		if round == rounds-1 {
			l.finish()
			waitFor(t, "all is counted", func() bool { return events() >= l.total.Load() })
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it says that it was killed
	}
	for i, tenant := range tenants {
		if got, want := counted(t, pool, tenant), l.acknowledged[i].Load(); got != want {
			t.Errorf("tenant %d: counted %d, acknowledged %d", i, got, want)
		}
	}
	if got, want := events(), l.total.Load(); got != want {
		t.Errorf("%d events, %d were acknowledged", got, want)
	}
}
