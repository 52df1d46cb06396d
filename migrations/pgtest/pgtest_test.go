package pgtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer/migrations"
)

func TestMain(m *testing.M) { Main(m) }

func TestNewIsMigratedAndEmpty(t *testing.T) {
	t.Parallel()
	pool := New(t)
	if err := migrations.Check(t.Context(), pool); err != nil {
		t.Error(err)
	}
	if got := count(t, pool, "select count(*) from usage_events"); got != 0 {
		t.Errorf("a fresh database holds %d events", got)
	}
	if got := pool.Config().MaxConns; got != 8 {
		t.Errorf("the pool may open %d connections", got)
	}
}

func TestParallelTestsAreIsolated(t *testing.T) {
	t.Parallel()
	for i := range 8 {
		t.Run("same/name", func(t *testing.T) {
			t.Parallel()
			pool := New(t)
			execute(t, pool, "create table mine as select generate_series(0, $1)", i)
			if got := count(t, pool, "select count(*) from mine"); got != i+1 {
				t.Errorf("found %d rows, wrote %d", got, i+1)
			}
		})
	}
}

func TestPassedTestDropsItsDatabase(t *testing.T) {
	t.Parallel()
	var database string
	t.Run("passes", func(t *testing.T) {
		database = URL(t)
		conn, err := pgx.Connect(t.Context(), database)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn // left open: that must not keep the database
	})
	if conn, err := pgx.Connect(t.Context(), database); err == nil {
		conn.Close(t.Context())
		t.Error("the database is still there")
	}
}

// failing is a test that reports that it failed, without failing the real one.
type failing struct {
	testing.TB
	said *strings.Builder
}

func (failing) Failed() bool                   { return true }
func (f failing) Logf(format string, a ...any) { fmt.Fprintf(f.said, format+"\n", a...) }

func TestFailedTestKeepsItsDatabase(t *testing.T) {
	t.Parallel()
	var database string
	var said strings.Builder
	t.Run("fails", func(t *testing.T) { database = URL(failing{t, &said}) })
	if !strings.Contains(said.String(), database) {
		t.Errorf("the log %q does not say where the database is", said.String())
	}
	conn, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close(t.Context())
}

func TestServerSurvivesBeingKilled(t *testing.T) {
	t.Parallel()
	server := Server(t)
	pool, err := pgxpool.New(t.Context(), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	execute(t, pool, "create table kept as select 1")
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	pool.Reset()
	if got := count(t, pool, "select count(*) from kept"); got != 1 {
		t.Errorf("%d rows survived, want 1", got)
	}
	if err := migrations.Check(t.Context(), pool); err != nil {
		t.Error(err)
	}
}

// Several packages' test binaries may meet on one given server, whose template
// is not there yet.
func TestGivenServerIsSharedByProcesses(t *testing.T) {
	t.Parallel()
	server := Server(t)
	done := make(chan error)
	for range 3 {
		go func() {
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^(TestNew|TestParallel|TestPassed)")
			cmd.Env = append(os.Environ(), URLEnv+"="+server.URL())
			if out, err := cmd.CombinedOutput(); err != nil {
				done <- fmt.Errorf("%w: %s", err, out)
				return
			}
			done <- nil
		}()
	}
	for range 3 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	pool, err := pgxpool.New(t.Context(), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if got := count(t, pool, "select count(*) from pg_database where datname like 'odometer%' and not datistemplate"); got != 0 {
		t.Errorf("%d databases were left on the given server", got)
	}
	if got := count(t, pool, "select count(*) from pg_database where datname like 'odometer%' and datistemplate"); got != 1 {
		t.Errorf("there are %d templates on the given server, want 1", got)
	}
}

func TestIncompleteTemplateIsCreatedAgain(t *testing.T) {
	t.Parallel()
	server := Server(t)
	ctx := context.Background()
	admin, err := pgx.Connect(ctx, server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(ctx)
	half := "odometer_template_" + migrations.Fingerprint()
	if _, err := admin.Exec(ctx, "create database "+half); err != nil {
		t.Fatal(err)
	}
	pool := open(t, clone(t, server.URL()))
	if err := migrations.Check(ctx, pool); err != nil {
		t.Error(err)
	}
}

func TestWrongURLIsExplained(t *testing.T) {
	t.Setenv(URLEnv, "host=localhost")
	if _, _, err := sharedServer(t.Context()); err == nil || !strings.Contains(err.Error(), URLEnv) {
		t.Errorf("sharedServer = %v", err)
	}
}

func count(t *testing.T, pool *pgxpool.Pool, sql string) (n int) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), sql).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

func execute(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}
