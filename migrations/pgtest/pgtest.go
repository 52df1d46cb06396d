// Package pgtest gives tests a real database. Each test gets one of its own,
// migrated and empty, cloned from a template in about a tenth of a second; so
// tests commit, lock and run in parallel as the program does, and never see
// each other.
//
// The server is a private one, started once per test binary by the first test
// that asks; call [Main] from TestMain so that it is stopped. Or it is the
// one that ODOMETER_TEST_DATABASE_URL names, whose user must be allowed to
// create databases. A test without a server fails and says what to do: a
// suite that skips is green for the wrong reason.
package pgtest

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"odometer/migrations"
	"odometer/migrations/localpg"
)

// URLEnv names the environment variable with the URL of a server to use
// instead of a private one.
const URLEnv = "ODOMETER_TEST_DATABASE_URL"

// startTimeout leaves room for fetching PostgreSQL over a slow line.
const startTimeout = 5 * time.Minute

// settings trade safety in a power failure, which no test survives, for
// speed, and leave room for many tests at once. Shared memory in files goes
// away with the directory, also when a test kills the server.
var settings = map[string]string{
	"fsync":                      "off",
	"full_page_writes":           "off",
	"max_connections":            "300",
	"shared_buffers":             "128MB",
	"dynamic_shared_memory_type": "mmap",
}

// shared is this test binary's server.
var shared struct {
	once   sync.Once
	err    error
	url    string          // of the database to administrate from
	server *localpg.Server // nil when the server was given
}

// Main runs the tests, stops the private server and exits. It is for
// TestMain.
func Main(m *testing.M) {
	code := m.Run()
	if shared.server != nil {
		if err := shared.server.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "pgtest:", err)
		}
	}
	os.Exit(code)
}

// New returns a pool of up to 8 connections to a fresh database. When the test
// ends the pool is closed and the database dropped; when it failed, the
// database is kept and its URL logged.
func New(t testing.TB) *pgxpool.Pool {
	t.Helper()
	return open(t, URL(t))
}

// URL returns the URL of a fresh database, which is dropped when the test
// ends; when it failed, it is kept and its URL logged.
func URL(t testing.TB) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	shared.once.Do(func() { shared.url, shared.server, shared.err = start(ctx) })
	if shared.err != nil {
		t.Fatalf("pgtest: %v; or set %s to the URL of a server", shared.err, URLEnv)
	}
	return clone(t, shared.url)
}

// Server starts a server for a test that stops or kills it. The database of
// its URL is migrated. It is stopped when the test ends.
func Server(t testing.TB) *localpg.Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	server, err := localpg.Start(ctx, localpg.Options{Settings: settings, Log: t.Logf})
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Errorf("pgtest: %v", err)
		}
	})
	if err := migrate(ctx, server.URL()); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	return server
}

// start returns the given server, or starts a private one.
func start(ctx context.Context) (string, *localpg.Server, error) {
	if given := os.Getenv(URLEnv); given != "" {
		if u, err := url.Parse(given); err != nil || u.Scheme == "" {
			return "", nil, fmt.Errorf("%s is not a URL like postgres://user:password@host/database", URLEnv)
		}
		return given, nil, nil
	}
	server, err := localpg.Start(ctx, localpg.Options{Settings: settings, Log: func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "pgtest: "+format+"\n", args...)
	}})
	if err != nil {
		return "", nil, err
	}
	return server.URL(), server, nil
}

// migrate brings a database up to date.
func migrate(ctx context.Context, database string) error {
	pool, err := pgxpool.New(ctx, database)
	if err != nil {
		return err
	}
	defer pool.Close()
	_, err = migrations.Up(ctx, pool)
	return err
}

// open returns a pool that the test must have given all connections back to
// when it ends.
func open(t testing.TB, database string) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(database)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	config.MaxConns = 8
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(func() {
		closed := make(chan struct{})
		go func() { pool.Close(); close(closed) }()
		select {
		case <-closed:
		case <-time.After(10 * time.Second):
			t.Errorf("pgtest: %d connections were not given back to the pool", pool.Stat().AcquiredConns())
		}
	})
	return pool
}
