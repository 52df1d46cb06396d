package pgtest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"odometer/migrations"
)

// process tells this process's databases from those of others on the same
// server, clones one of them from the next.
var (
	process = func() string {
		b := make([]byte, 4)
		rand.Read(b) // never fails
		return hex.EncodeToString(b)
	}()
	clones atomic.Int64
)

// clone copies the template and returns the copy's URL.
func clone(t testing.TB, server string) string {
	t.Helper()
	// Longer than cloning takes: many tests may wait for the template.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
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
	fresh := withDatabase(server, name)
	t.Cleanup(func() { drop(t, server, name, fresh) })
	return fresh
}

// drop removes a clone, unless there is something to look at in it.
func drop(t testing.TB, server, name, database string) {
	if t.Failed() {
		t.Logf("pgtest: the database was kept: %s", database)
		if shared.server != nil {
			t.Logf("pgtest: it lives until this test binary ends; to look at it afterwards set %s", URLEnv)
		}
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	admin, err := pgx.Connect(ctx, server)
	if err != nil {
		t.Errorf("pgtest: drop database %s: %v", name, err)
		return
	}
	defer admin.Close(ctx)
	// Force: a test need not close every connection that it made.
	if _, err := admin.Exec(ctx, fmt.Sprintf("drop database %s with (force)", quote(name))); err != nil {
		t.Errorf("pgtest: drop database %s: %v", name, err)
	}
}

const (
	lockSQL   = `select pg_advisory_lock(hashtext('odometer pgtest template'))`
	unlockSQL = `select pg_advisory_unlock(hashtext('odometer pgtest template'))`
	isDoneSQL = `select exists (select from pg_database where datname = $1 and datistemplate)`
)

// ensureTemplate makes the template of these migrations unless it is there,
// and returns its name. The test binaries of several packages may do this at
// once on one server, hence the lock. It is marked as a template only when it
// is whole; one that is not marked was left by a process that died, and is
// made again.
func ensureTemplate(ctx context.Context, admin *pgx.Conn, server string) (name string, err error) {
	name = "odometer_template_" + migrations.Fingerprint()
	done := false
	if err := admin.QueryRow(ctx, isDoneSQL, name).Scan(&done); err != nil || done {
		return name, err
	}
	if _, err := admin.Exec(ctx, lockSQL); err != nil {
		return "", err
	}
	defer admin.Exec(ctx, unlockSQL) // the session's end would do it too
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
	// A template that someone is connected to cannot be cloned.
	_, err = admin.Exec(ctx, fmt.Sprintf("alter database %s is_template true allow_connections false", quote(name)))
	return name, err
}

var notInNames = regexp.MustCompile(`[^a-z0-9]+`)

// cloneName is unique, and says whose the database is as far as 63 bytes
// allow.
func cloneName(test string) string {
	name := fmt.Sprintf("odometer_%s_%d_%s", process, clones.Add(1),
		notInNames.ReplaceAllString(strings.ToLower(test), "_"))
	return name[:min(len(name), 63)]
}

func withDatabase(server, name string) string {
	u, err := url.Parse(server)
	if err != nil {
		panic(err) // start has parsed it
	}
	u.Path = "/" + name
	return u.String()
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }
