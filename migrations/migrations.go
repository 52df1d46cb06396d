// Package migrations holds the database's schema and moves it forward and
// back. The SQL is embedded, so that a binary and the schema it was written
// for cannot be separated, and so that a binary can tell whether the database
// in front of it is the one it knows.
//
// What it guarantees: a migration is applied once, however many processes
// call [Up] at the same time; a migration that fails leaves nothing behind;
// [Status] and [Check] only read; nothing that was counted or billed is
// dropped unless the caller insists.
//
// A new migration is a new file, 00004_words.sql, in goose's format. Files
// that were released are never edited. The tables of River, which runs the
// jobs, come with River's own migrations and belong to 00002.
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
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
	"github.com/riverqueue/river/rivermigrate"
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
	// or told overage.
	ErrWouldDestroy = errors.New("taking a migration back would destroy data")
)

// Migration is one step of the schema.
type Migration struct {
	Version   int64
	Name      string // the file's name without .sql; empty when this binary does not know the version
	Applied   bool
	AppliedAt time.Time // zero when not applied
}

// Up applies what is missing, oldest first, and returns what it applied.
// While another process is at it, Up waits until that one is done or ctx ends.
// When a migration fails, those before it stay applied and are returned with
// the error.
func Up(ctx context.Context, pool *pgxpool.Pool) (applied []Migration, err error) {
	if err := Check(ctx, pool); err != nil && !errors.Is(err, ErrBehind) {
		return nil, fmt.Errorf("migrate up: %w", err)
	}
	if applied, err = up(ctx, pool, embedded); err != nil {
		return applied, err
	}
	changed, err := riverUp(ctx, pool)
	if err != nil {
		return applied, fmt.Errorf("migrate up: %w", err)
	}
	isStep := func(m Migration) bool { return m.Version == riverStep }
	if changed && !slices.ContainsFunc(applied, isStep) {
		applied = append(applied, Migration{riverStep, nameOf(riverStep), true, time.Now().UTC()})
	}
	return applied, nil
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
	all, err := status(ctx, pool, embedded)
	if err != nil {
		return nil, err
	}
	err = checkRiver(ctx, pool)
	if errors.Is(err, ErrBehind) {
		for i := range all {
			if all[i].Version == riverStep {
				all[i].Applied, all[i].AppliedAt = false, time.Time{}
			}
		}
	} else if err != nil && !errors.Is(err, ErrAhead) {
		return nil, fmt.Errorf("migration status: %w", err)
	}
	return all, nil
}

// Check returns nil when the database has exactly the migrations of this
// binary, else an error that is [ErrBehind] or [ErrAhead].
func Check(ctx context.Context, pool *pgxpool.Pool) error {
	if err := check(ctx, pool, embedded); err != nil {
		return err
	}
	return checkRiver(ctx, pool)
}

// Fingerprint identifies the embedded migrations and River's: it changes with
// every byte of them.
func Fingerprint() string {
	known, err := riverKnown()
	if err != nil {
		panic(err) // they are part of this binary
	}
	return fingerprint(embedded, known...)
}

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
		applied = append(applied, Migration{r.Source.Version, name(r.Source.Path), true, time.Now().UTC()})
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
	if err := riverBefore(ctx, pool); err != nil {
		return Migration{}, fmt.Errorf("migrate down: %w", err)
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

// riverBefore removes River's tables when the step that they belong to is the
// next to go.
func riverBefore(ctx context.Context, pool *pgxpool.Pool) error {
	applied, err := appliedVersions(ctx, pool)
	if err != nil {
		return err
	}
	if len(applied) == 0 || slices.Max(slices.Collect(maps.Keys(applied))) != riverStep {
		return nil
	}
	return riverDown(ctx, pool)
}

// provider returns goose over files and the pool. Closing db gives its
// connections back; the pool stays open.
func provider(pool *pgxpool.Pool, files fs.FS) (*goose.Provider, *sql.DB, error) {
	// Asked every second for a day: how long to wait is the caller's to say,
	// by ctx, and a long migration must not fail the processes behind it.
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

// named says which file an error is of.
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

// nameOf is the name of an embedded migration.
func nameOf(version int64) string {
	known, err := knownMigrations(embedded)
	if err != nil {
		panic(err) // the names are part of this binary
	}
	for _, m := range known {
		if m.Version == version {
			return m.Name
		}
	}
	return ""
}

func fingerprint(files fs.FS, river ...rivermigrate.Migration) string {
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
	for _, m := range river {
		fmt.Fprintf(h, "river %d %d\n%s", m.Version, len(m.SQLUp), m.SQLUp)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}
