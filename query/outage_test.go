package query

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

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

func TestDatabaseThatIsGoneIs503(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t)
	b := &books{t, openPool(t, server.URL())}
	b.exec(sampleSQL)
	b.exec(streamSQL)
	tenant := exampleCustomer(b)
	h := handler(t, b.pool, 0)
	if r := get(h, usageRoute, reads(t, tenant)); r.StatusCode != http.StatusOK {
		t.Fatalf("status %d", r.StatusCode)
	}
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	// The first request meets a connection that died, the next ones get none.
	for range 3 {
		detail := wantProblem(t, get(h, usageRoute, reads(t, tenant)), unavailable)
		if strings.Contains(detail, "connect") || strings.Contains(detail, "sock") {
			t.Errorf("detail tells of the inside: %s", detail)
		}
	}
}

func TestDroppedDatabaseIs503(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
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
	h := handler(t, pool, 0)
	wantProblem(t, get(h, usageRoute, reads(t, tenant)), internal) // there, but empty
	b.exec(`drop database "` + lost.ConnConfig.Database + `" with (force)`)
	for range 2 {
		wantProblem(t, get(h, usageRoute, reads(t, tenant)), unavailable)
	}
}

func TestDatabaseThatIsTooSlowIsAnOutage(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
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
		if _, err := Usage(ctx, pool, tenant); !unreachable(err) {
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

func TestErrorsOfOutagesAreToldFromOurOwn(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]bool{
		"57P01": true, "57014": true, "08006": true, "53300": true, "3D000": true,
		"42P01": false, "22012": false, "XX000": false, "": false,
	} {
		if away(code) != want {
			t.Errorf("%q: %v", code, !want)
		}
	}
}

func TestClientThatHungUpIsNobodysFailure(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	tenant := exampleCustomer(b)
	s := &server{pool: b.pool, keys: secretKeys(t), limit: newLimiter(0, time.Minute, time.Now), log: quiet, metrics: newMetrics(nil)}
	ctx, hangUp := context.WithCancel(context.Background())
	hangUp()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, usageRoute, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+reads(t, tenant))
	if out := s.usage(r, &entry{}); !out.hungUp {
		t.Errorf("status %d", out.status)
	}
}
