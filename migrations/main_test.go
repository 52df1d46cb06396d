package migrations

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"os"
	"sync/atomic"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer/migrations/localpg"
)

// migrateEnv turns this test binary into a process that migrates the database
// of that URL with the set named slow, and says how much it applied.
const migrateEnv = "ODOMETER_TEST_MIGRATE"

var server *localpg.Server

func TestMain(m *testing.M) {
	if database := os.Getenv(migrateEnv); database != "" {
		os.Exit(migrateAsProcess(database))
	}
	var err error
	server, err = localpg.Start(context.Background(), localpg.Options{Settings: map[string]string{"fsync": "off"}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	server.Stop()
	os.Exit(code)
}

// The tests cannot use pgtest, which needs this package and gives databases
// that are migrated already.

var databases atomic.Int64

// emptyDatabase returns the URL of a database with nothing in it. The server
// ends with the tests and takes it along.
func emptyDatabase(t *testing.T) string {
	t.Helper()
	admin, err := pgx.Connect(t.Context(), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(t.Context())
	name := fmt.Sprintf("empty_%d", databases.Add(1))
	if _, err := admin.Exec(t.Context(), "create database "+name); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	return u.String()
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

// Three sets, each the previous one grown.
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
