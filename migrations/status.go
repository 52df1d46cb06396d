package migrations

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pressly/goose/v3"
)

// status does not use goose's Status, which creates the version table and takes
// the lock: a process that only reads must do neither.
func status(ctx context.Context, pool *pgxpool.Pool, files fs.FS) ([]Migration, error) {
	known, err := knownMigrations(files)
	if err != nil {
		return nil, fmt.Errorf("migration status: %w", err)
	}
	applied, err := appliedVersions(ctx, pool)
	if err != nil {
		return nil, fmt.Errorf("migration status: %w", err)
	}
	for i, m := range known {
		if at, ok := applied[m.Version]; ok {
			known[i].Applied, known[i].AppliedAt = true, new(at.UTC())
			delete(applied, m.Version)
		}
	}
	for version, at := range applied {
		known = append(known, Migration{Version: version, Applied: true, AppliedAt: new(at.UTC())})
	}
	slices.SortFunc(known, func(a, b Migration) int { return cmp.Compare(a.Version, b.Version) })
	return known, nil
}

func check(ctx context.Context, pool *pgxpool.Pool, files fs.FS) error {
	all, err := status(ctx, pool, files)
	if err != nil {
		return err
	}
	var missing, unknown []int64
	for _, m := range all {
		switch {
		case !m.Applied:
			missing = append(missing, m.Version)
		case m.Name == "":
			unknown = append(unknown, m.Version)
		}
	}
	switch {
	case len(unknown) > 0:
		return fmt.Errorf("%w: it has migration %d, which this binary does not know; run the newer binary",
			ErrAhead, unknown[len(unknown)-1])
	case len(missing) > 0:
		return fmt.Errorf("%w: %d of %d migrations are missing, the first is %d; run: odometer migrate up",
			ErrBehind, len(missing), len(all), missing[0])
	}
	return nil
}

func knownMigrations(files fs.FS) ([]Migration, error) {
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return nil, err
	}
	var known []Migration
	for _, n := range names {
		version, err := goose.NumericComponent(n)
		if err != nil {
			return nil, fmt.Errorf("%s: %w; name it like 00002_words.sql", n, err)
		}
		known = append(known, Migration{Version: version, Name: name(n)})
	}
	return known, nil
}

const tableExistsSQL = `select to_regclass($1) is not null`

// goose stores the session's local time without a zone: the cast reads it in
// the zone of this session, which the server or the database sets for both.
// Version 0 is goose's own first row.
const appliedVersionsSQL = `
select version_id, max(tstamp)::timestamptz
  from ` + goose.DefaultTablename + `
 where is_applied and version_id > 0
 group by version_id`

// appliedVersions returns when each version was applied.
func appliedVersions(ctx context.Context, pool *pgxpool.Pool) (map[int64]time.Time, error) {
	var exists bool
	if err := pool.QueryRow(ctx, tableExistsSQL, goose.DefaultTablename).Scan(&exists); err != nil {
		return nil, err
	}
	applied := map[int64]time.Time{}
	if !exists {
		return applied, nil
	}
	rows, _ := pool.Query(ctx, appliedVersionsSQL) // an error here resurfaces in ForEachRow
	var version int64
	var at time.Time
	_, err := pgx.ForEachRow(rows, []any{&version, &at}, func() error {
		applied[version] = at
		return nil
	})
	return applied, err
}

// precious are the tables that a migration back drops only by force: the
// counted events, and the ledger of what was reported to Stripe.
var precious = []string{"usage_events", "overage_reports"}

// refuseLoss returns ErrWouldDestroy when a precious table exists and is not
// empty.
func refuseLoss(ctx context.Context, pool *pgxpool.Pool) error {
	var found []string
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		// Under row-level security a full table can look empty. Off means
		// that such a read is an error instead.
		if _, err := tx.Exec(ctx, `set local row_security = off`); err != nil {
			return err
		}
		for _, table := range precious {
			n, err := countRows(ctx, tx, table)
			if err != nil {
				return fmt.Errorf("count %s: %w", table, err)
			}
			if n > 0 {
				found = append(found, fmt.Sprintf("table %s holds %d rows", table, n))
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s; take a backup, then repeat with --force", ErrWouldDestroy, strings.Join(found, ", "))
}

func countRows(ctx context.Context, tx pgx.Tx, table string) (n int64, err error) {
	var exists bool
	if err := tx.QueryRow(ctx, tableExistsSQL, table).Scan(&exists); err != nil || !exists {
		return 0, err
	}
	err = tx.QueryRow(ctx, `select count(*) from `+pgx.Identifier{table}.Sanitize()).Scan(&n)
	return n, err
}
