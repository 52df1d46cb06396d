// Package pgtest gives tests a real database. Each test gets one of its own,
// migrated and empty, cloned from a template in about a tenth of a second. So
// tests commit, lock and run in parallel as the program does, and never see
// each other.
//
// The server is a private one, started once per test binary by the first test
// that needs it; call [Main] from TestMain so that it is stopped. Or it is the
// server that ODOMETER_TEST_DATABASE_URL names, whose user must be allowed to
// create databases: command withpostgres starts one for all packages of a run.
// A test without a server fails and says what to do: a suite that skips is
// green for the wrong reason.
package pgtest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer/migrations"
	"odometer/migrations/localpg"
)

// URLEnv names the environment variable with the URL of a server to use
// instead of a private one.
const URLEnv = "ODOMETER_TEST_DATABASE_URL"

const (
	startTimeout = 5 * time.Minute // leaves room for fetching PostgreSQL over a slow line
	cloneTimeout = time.Minute     // longer than cloning takes: many tests may wait for the template
)

// settings keep what is written small, because it may be in memory, trade safety in a power failure, which no test survives, for
// speed, and leave room for many tests at once. Shared memory in files is
// removed with the directory, also when a test kills the server.
var settings = map[string]string{
	"fsync":                      "off",
	"full_page_writes":           "off",
	"max_connections":            "500",
	"max_wal_size":               "256MB",
	"shared_buffers":             "128MB",
	"dynamic_shared_memory_type": "mmap",
}

// shared is this test binary's server.
var shared struct {
	once   sync.Once
	err    error
	url    string          // of the database from which others are created
	server *localpg.Server // nil when URLEnv names the server
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
	shared.once.Do(func() { shared.url, shared.server, shared.err = sharedServer(ctx) })
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
	server, err := Start(ctx, t.Logf)
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

// Start starts a server with the settings for tests. The caller stops it. log
// hears of what takes long, such as a download.
func Start(ctx context.Context, log func(format string, args ...any)) (*localpg.Server, error) {
	return localpg.Start(ctx, localpg.Options{InMemory: true, Settings: settings, Log: log})
}

// sharedServer returns the URL of the server that URLEnv names, or starts a
// private one.
func sharedServer(ctx context.Context) (string, *localpg.Server, error) {
	if given := os.Getenv(URLEnv); given != "" {
		if u, err := url.Parse(given); err != nil || u.Scheme == "" {
			return "", nil, fmt.Errorf("%s is not a URL like postgres://user:password@host/database", URLEnv)
		}
		return given, nil, nil
	}
	server, err := Start(ctx, func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "pgtest: "+format+"\n", args...)
	})
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

// open returns a pool. The test fails if it still holds one of the pool's
// connections when it ends.
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

// clone copies the template and returns the copy's URL.
func clone(t testing.TB, server string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), cloneTimeout)
	defer cancel()
	admin, err := pgx.Connect(ctx, server)
	if err != nil {
		t.Fatalf("pgtest: %v; is the server of %s there?", err, URLEnv)
	}
	defer admin.Close(ctx)

	template, err := ensureTemplate(ctx, admin, server)
	if err != nil {
		t.Fatalf("pgtest: template database: %v", err)
	}
	name := cloneName(t.Name())
	sql := fmt.Sprintf("create database %s template %s", quote(name), quote(template))
	if _, err := admin.Exec(ctx, sql); err != nil {
		t.Fatalf("pgtest: clone %s: %v", template, err)
	}
	database := withDatabase(server, name)
	t.Cleanup(func() { drop(t, server, name, database) })
	return database
}

// drop removes a clone, unless its test failed: then somebody will want to
// look into it.
func drop(t testing.TB, server, name, database string) {
	if t.Failed() {
		t.Logf("pgtest: the database was kept: %s", database)
		if shared.server != nil {
			t.Logf("pgtest: it is lost when this test binary ends; to inspect it afterwards set %s", URLEnv)
		}
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), cloneTimeout)
	defer cancel()
	admin, err := pgx.Connect(ctx, server)
	if err != nil {
		t.Errorf("pgtest: drop database %s: %v", name, err)
		return
	}
	defer admin.Close(ctx)
	// Force: a test need not close every connection that it opened.
	if _, err := admin.Exec(ctx, fmt.Sprintf("drop database %s with (force)", quote(name))); err != nil {
		t.Errorf("pgtest: drop database %s: %v", name, err)
	}
}

const (
	lockSQL   = `select pg_advisory_lock(hashtext('odometer pgtest template'))`
	unlockSQL = `select pg_advisory_unlock(hashtext('odometer pgtest template'))`
	isDoneSQL = `select exists (select from pg_database where datname = $1 and datistemplate)`
)

// ensureTemplate creates the template of these migrations unless it exists,
// and returns its name. The test binaries of several packages may do this at
// once on one server, hence the lock. The database is marked as a template
// only when it is complete; one without the mark was left by a process that
// died, and is created again.
func ensureTemplate(ctx context.Context, admin *pgx.Conn, server string) (name string, err error) {
	name = "odometer_template_" + migrations.Fingerprint()
	done := false
	if err := admin.QueryRow(ctx, isDoneSQL, name).Scan(&done); err != nil || done {
		return name, err
	}
	if _, err := admin.Exec(ctx, lockSQL); err != nil {
		return "", err
	}
	defer func() { _, _ = admin.Exec(ctx, unlockSQL) }() // the end of the session unlocks too
	if err := admin.QueryRow(ctx, isDoneSQL, name).Scan(&done); err != nil || done {
		return name, err
	}
	for _, sql := range []string{"drop database if exists %s with (force)", "create database %s"} {
		if _, err := admin.Exec(ctx, fmt.Sprintf(sql, quote(name))); err != nil {
			return "", err
		}
	}
	if err := migrate(ctx, withDatabase(server, name)); err != nil {
		return "", err
	}
	// A template that has a connection cannot be cloned.
	_, err = admin.Exec(ctx, fmt.Sprintf("alter database %s is_template true allow_connections false", quote(name)))
	return name, err
}

var (
	// process separates this process's databases from those of others on the
	// same server, and clones separates them from each other.
	process = func() string {
		b := make([]byte, 4)
		rand.Read(b) // never fails
		return hex.EncodeToString(b)
	}()
	clones atomic.Int64

	notInNames = regexp.MustCompile(`[^a-z0-9]+`)
)

// cloneName is unique, and names the test as far as 63 bytes allow.
func cloneName(test string) string {
	name := fmt.Sprintf("odometer_%s_%d_%s", process, clones.Add(1),
		notInNames.ReplaceAllString(strings.ToLower(test), "_"))
	return name[:min(len(name), 63)]
}

func withDatabase(server, name string) string {
	u, err := url.Parse(server)
	if err != nil {
		panic(err) // sharedServer has parsed it
	}
	u.Path = "/" + name
	return u.String()
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }
