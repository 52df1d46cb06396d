package query

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"odometer/api"
	"odometer/api/apitest"
	"odometer/internal/testenv"
	"odometer/migrations/pgtest"
)

func openPool(t testing.TB, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func TestStoppedDatabaseIs503(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t)
	env := testenv.New(t, testenv.Options{Pool: openPool(t, server.URL())})
	b := readUntilKnown(t, env.Database)
	tenant := exampleCustomer(b)
	h := newAPI(t, b.pool, 0)
	if r := apitest.Get(h, usageRoute, reads(t, tenant)); r.StatusCode != http.StatusOK {
		t.Fatalf("status %d", r.StatusCode)
	}
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	// The first request meets a connection that died, the next ones get none.
	for range 3 {
		detail := apitest.WantProblem(t, apitest.Get(h, usageRoute, reads(t, tenant)), "503 unavailable")
		if strings.Contains(detail, "connect") || strings.Contains(detail, "sock") {
			t.Errorf("detail tells of the inside: %s", detail)
		}
	}
}

func TestDroppedDatabaseIs503(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := exampleCustomer(b)
	lost := b.pool.Config().Copy()
	lost.ConnConfig.Database += "_dropped"
	pool, err := pgxpool.NewWithConfig(context.Background(), lost)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	b.exec(`create database "` + lost.ConnConfig.Database + `"`)
	if err := pool.Ping(context.Background()); err != nil {
		t.Fatal(err)
	}
	h := newAPI(t, pool, 0)
	apitest.WantProblem(t, apitest.Get(h, usageRoute, reads(t, tenant)), "500 internal") // there, but empty
	b.exec(`drop database "` + lost.ConnConfig.Database + `" with (force)`)
	for range 2 {
		apitest.WantProblem(t, apitest.Get(h, usageRoute, reads(t, tenant)), "503 unavailable")
	}
}

func TestSlowDatabaseIs503(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := exampleCustomer(b)
	tx, err := b.pool.Begin(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err := tx.Exec(context.Background(), `lock table usage_counters in access exclusive mode`); err != nil {
		t.Fatal(err)
	}
	slow := func(pool *pgxpool.Pool, what string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		if _, err := Usage(ctx, pool, tenant); !api.DatabaseUnavailable(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	slow(b.pool, "a lock")
	crowded := b.pool.Config().Copy()
	crowded.MaxConns = 1
	pool, err := pgxpool.NewWithConfig(context.Background(), crowded)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	conn, err := pool.Acquire(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	slow(pool, "no free connection")
}

func TestClientThatHungUpIsNoError(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := exampleCustomer(b)
	registry := prometheus.NewRegistry()
	h := newAPI(t, b.pool, 0, func(o *api.Options) { o.Registerer = registry })
	ctx, hangUp := context.WithCancel(context.Background())
	hangUp()
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, usageRoute, nil)
	r.Header.Set("Authorization", "Bearer "+reads(t, tenant))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	apitest.WantProblem(t, w.Result(), "503 unavailable")
	if n := booked(t, registry, usageRoute, "499"); n != 1 {
		t.Errorf("booked %v times", n)
	}
}

// booked is how often a route's status was counted.
func booked(t testing.TB, registry *prometheus.Registry, route, status string) (n float64) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.Metric {
			if family.GetName() == "usage_api_requests_total" && m.Label[0].GetValue() == route && m.Label[1].GetValue() == status {
				n += m.Counter.GetValue()
			}
		}
	}
	return n
}
