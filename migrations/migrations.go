// Package migrations holds the database's schema and moves it forward and
// back. The SQL is embedded, so that a binary and the schema it was written
// for cannot be separated, and so that a binary can check whether a database
// has exactly the schema it knows.
//
// What it guarantees: a migration is applied once, however many processes
// call [Up] at the same time; a migration that fails or is killed at any
// statement can be run again; [Status] and [Check] only read; nothing that was
// counted or billed is dropped unless the caller insists.
//
// A new migration is a new file with the next number, in goose's format. Files
// that were released are never edited. A file runs in one transaction; one that
// cannot (NO TRANSACTION) must be safe to run again from its start. The tables
// of River, which runs the jobs, are part of our files: see 00007.
package migrations

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed *.sql
var embedded embed.FS

var (
	// ErrBehind means that the database lacks migrations of this binary.
	ErrBehind = errors.New("the database is behind this binary")

	// ErrAhead means that the database has migrations this binary does not
	// know.
	ErrAhead = errors.New("this binary is older than the database")

	// ErrWouldDestroy means that taking a migration back would drop events
	// or the ledger of reported overage.
	ErrWouldDestroy = errors.New("taking a migration back would destroy data")
)

// Migration is one step of the schema.
type Migration struct {
	Version   int64      `json:"version"`
	Name      string     `json:"name"` // the file's name without .sql; empty when this binary does not know the version
	Applied   bool       `json:"applied"`
	AppliedAt *time.Time `json:"applied_at"` // in UTC; nil when not applied
}

// Up applies the missing migrations, oldest first, and returns them. While
// another process migrates, Up waits until it is done or ctx ends. When a
// migration fails, those before it stay applied and are returned with the
// error.
func Up(ctx context.Context, pool *pgxpool.Pool) (applied []Migration, err error) {
	return up(ctx, pool, embedded)
}

// Down takes back the newest migration and returns it. Unless force is set it
// refuses with [ErrWouldDestroy] while the database holds usage events or
// overage reports. It cannot see events that are still to come: stop the
// writers first.
func Down(ctx context.Context, pool *pgxpool.Pool, force bool) (Migration, error) {
	return down(ctx, pool, embedded, force)
}

// Status lists the migrations of this binary and those the database has
// beyond them, oldest first.
func Status(ctx context.Context, pool *pgxpool.Pool) ([]Migration, error) {
	return status(ctx, pool, embedded)
}

// Check returns nil when the database has exactly the migrations of this
// binary, else an error that is [ErrBehind] or [ErrAhead].
func Check(ctx context.Context, pool *pgxpool.Pool) error {
	return check(ctx, pool, embedded)
}

// Fingerprint identifies the embedded migrations: it changes with every byte
// of them.
func Fingerprint() string { return fingerprint(embedded) }

func up(ctx context.Context, pool *pgxpool.Pool, files fs.FS) ([]Migration, error) {
	if err := check(ctx, pool, files); err != nil && !errors.Is(err, ErrBehind) {
		return nil, fmt.Errorf("migrate up: %w", err)
	}
	p, db, err := provider(pool, files)
	if err != nil {
		return nil, fmt.Errorf("migrate up: %w", err)
	}
	defer db.Close()

	results, err := p.Up(ctx)
	if err != nil {
		var before *goose.PartialError
		if errors.As(err, &before) {
			results = before.Applied
		}
		err = fmt.Errorf("migrate up: %w", named(err))
	}
	var applied []Migration
	for _, r := range results {
		applied = append(applied, Migration{r.Source.Version, name(r.Source.Path), true, new(time.Now().UTC())})
	}
	return applied, err
}

func down(ctx context.Context, pool *pgxpool.Pool, files fs.FS, force bool) (Migration, error) {
	if err := check(ctx, pool, files); err != nil && !errors.Is(err, ErrBehind) {
		return Migration{}, fmt.Errorf("migrate down: %w", err)
	}
	if !force {
		if err := refuseLoss(ctx, pool); err != nil {
			return Migration{}, fmt.Errorf("migrate down: %w", err)
		}
	}
	p, db, err := provider(pool, files)
	if err != nil {
		return Migration{}, fmt.Errorf("migrate down: %w", err)
	}
	defer db.Close()

	result, err := p.Down(ctx)
	if errors.Is(err, goose.ErrNoNextVersion) {
		return Migration{}, errors.New("migrate down: no migration is applied, there is nothing to take back")
	}
	if err != nil {
		return Migration{}, fmt.Errorf("migrate down: %w", named(err))
	}
	return Migration{Version: result.Source.Version, Name: name(result.Source.Path)}, nil
}

// provider returns goose for files and the pool. Closing db returns its
// connections; the pool stays open.
func provider(pool *pgxpool.Pool, files fs.FS) (*goose.Provider, *sql.DB, error) {
	// The lock is tried every second for a day: ctx decides how long to wait,
	// and a long migration must not fail the processes that wait for it.
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 24*60*60))
	if err != nil {
		return nil, nil, err
	}
	db := stdlib.OpenDBFromPool(pool)
	p, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithSessionLocker(locker),
		goose.WithDisableGlobalRegistry(true),
		goose.WithLogger(goose.NopLogger()))
	if err != nil {
		db.Close()
		return nil, nil, err
	}
	return p, db, nil
}

// named adds to an error the name of the file that failed.
func named(err error) error {
	var failed *goose.PartialError
	if errors.As(err, &failed) {
		return fmt.Errorf("%s: %w", name(failed.Failed.Source.Path), failed.Err)
	}
	return err
}

func name(file string) string {
	return strings.TrimSuffix(path.Base(file), ".sql")
}

func fingerprint(files fs.FS) string {
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		panic(err) // only a malformed pattern can fail
	}
	h := sha256.New()
	for _, n := range names {
		content, err := fs.ReadFile(files, n)
		if err != nil {
			panic(fmt.Sprintf("embedded migration %s: %v", n, err)) // it is part of this binary
		}
		fmt.Fprintf(h, "%s %d\n%s", n, len(content), content)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}
