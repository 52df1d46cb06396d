package migrations

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path"
	"sync/atomic"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer/migrations/localpg"
)

// migrateEnv turns this test binary into a process that migrates the database
// of that URL with the set named slow and prints how many files it applied.
const migrateEnv = "ODOMETER_TEST_MIGRATE"

var server *localpg.Server

func TestMain(m *testing.M) {
	if database := os.Getenv(migrateEnv); database != "" {
		os.Exit(migrateAsProcess(database))
	}
	var err error
	server, err = localpg.Start(context.Background(), localpg.Options{InMemory: true, Settings: map[string]string{"fsync": "off"}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := server.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// The tests cannot use pgtest: it imports this package, and its databases are
// migrated already.

var databases atomic.Int64

// emptyDatabase returns the URL of an empty database. It is removed with the
// server when the tests end.
func emptyDatabase(t *testing.T) string {
	t.Helper()
	return newDatabase(t, "template1")
}

// cloneOf returns the URL of a copy of a database that nobody is connected to.
func cloneOf(t *testing.T, database string) string {
	t.Helper()
	return newDatabase(t, path.Base(mustParse(t, database).Path))
}

func newDatabase(t *testing.T, template string) string {
	t.Helper()
	admin, err := pgx.Connect(t.Context(), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(t.Context())
	name := fmt.Sprintf("empty_%d", databases.Add(1))
	if _, err := admin.Exec(t.Context(), "create database "+name+" template "+template); err != nil {
		t.Fatal(err)
	}
	u := mustParse(t, server.URL())
	u.Path = "/" + name
	return u.String()
}

func mustParse(t *testing.T, address string) *url.URL {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func connect(t *testing.T, database string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func execute(t *testing.T, pool *pgxpool.Pool, sql string) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func file(up, down string) *fstest.MapFile {
	return &fstest.MapFile{Data: []byte("-- +goose Up\n" + up + "\n-- +goose Down\n" + down + "\n")}
}

// Three sets, each with one file more than the one before.
var (
	one   = fstest.MapFS{"00001_events.sql": file("create table usage_events (id int);", "drop table usage_events;")}
	two   = with(one, "00002_more.sql", file("create table more (id int);", "drop table more;"))
	three = with(two, "00003_wrong.sql", file("create table half (id int); select 1/0;", "select 1;"))
	slow  = with(one, "00002_slow.sql", file("create table slow as select 1 from pg_sleep(0.5);", "drop table slow;"))
)

func with(set fstest.MapFS, name string, f *fstest.MapFile) fstest.MapFS {
	grown := maps.Clone(set)
	grown[name] = f
	return grown
}

func versions(all []Migration) (applied []int64) {
	for _, m := range all {
		if m.Applied {
			applied = append(applied, m.Version)
		}
	}
	return applied
}

func migrateAsProcess(database string) int {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, database)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer pool.Close()
	applied, err := up(ctx, pool, slow)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Print(len(applied))
	return 0
}
