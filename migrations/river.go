package migrations

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// River, which runs the jobs, brings its tables and their migrations along.
// They belong to step riverStep of ours: they come after it, go before it, and
// it counts as applied only with all of them.
const riverStep = 2

// riverMigrator is River's own migrator, nil pool for one that is only asked
// what it knows.
func riverMigrator(pool *pgxpool.Pool) (*rivermigrate.Migrator[pgx.Tx], error) {
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil)) // its errors come back as errors
	m, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Logger: quiet})
	if err != nil {
		return nil, fmt.Errorf("River's migrations: %w", err)
	}
	return m, nil
}

// riverKnown is what this binary knows of River's migrations, oldest first.
func riverKnown() ([]rivermigrate.Migration, error) {
	m, err := riverMigrator(nil)
	if err != nil {
		return nil, err
	}
	return m.AllVersions(), nil
}

const riverVersionsSQL = `
select version
from river_migration
where line = 'main'
order by version`

// riverApplied lists the versions of River's tables that the database has.
func riverApplied(ctx context.Context, pool *pgxpool.Pool) ([]int, error) {
	rows, _ := pool.Query(ctx, riverVersionsSQL)
	versions, err := pgx.CollectRows(rows, pgx.RowTo[int])
	var refusal *pgconn.PgError
	const undefinedTable = "42P01"
	if errors.As(err, &refusal) && refusal.Code == undefinedTable {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read River's migrations: %w", err)
	}
	return versions, nil
}

// checkRiver compares River's tables with what this binary knows of them.
func checkRiver(ctx context.Context, pool *pgxpool.Pool) error {
	known, err := riverKnown()
	if err != nil {
		return err
	}
	applied, err := riverApplied(ctx, pool)
	if err != nil {
		return err
	}
	missing := 0
	for _, m := range known {
		at := slices.Index(applied, m.Version)
		if at < 0 {
			missing++
			continue
		}
		applied = slices.Delete(applied, at, at+1)
	}
	switch {
	case len(applied) > 0:
		return fmt.Errorf("%w: the tables of its job runner have River's migration %d, which this binary does not know; run the newer binary",
			ErrAhead, applied[len(applied)-1])
	case missing > 0:
		return fmt.Errorf("%w: %d of %d migrations of its job runner River are missing; run: odometer migrate up",
			ErrBehind, missing, len(known))
	}
	return nil
}

// riverUp brings River's tables up to date and reports whether it had to.
func riverUp(ctx context.Context, pool *pgxpool.Pool) (changed bool, err error) {
	return migrateRiver(ctx, pool, rivermigrate.DirectionUp, nil)
}

// riverDown removes River's tables, and the jobs that wait in them.
func riverDown(ctx context.Context, pool *pgxpool.Pool) error {
	if applied, err := riverApplied(ctx, pool); err != nil || len(applied) == 0 {
		return err
	}
	_, err := migrateRiver(ctx, pool, rivermigrate.DirectionDown, &rivermigrate.MigrateOpts{TargetVersion: -1})
	return err
}

const lockRiverSQL = `
select pg_advisory_lock(hashtext('odometer migrate river'))`

// migrateRiver moves River's tables as the only one to do so: its migrator
// does not lock. The lock has a connection of its own, because the migrator
// takes its connections from the pool, which may have only one.
func migrateRiver(ctx context.Context, pool *pgxpool.Pool, to rivermigrate.Direction, how *rivermigrate.MigrateOpts) (changed bool, err error) {
	m, err := riverMigrator(pool)
	if err != nil {
		return false, err
	}
	locked, err := pgx.ConnectConfig(ctx, pool.Config().ConnConfig)
	if err != nil {
		return false, fmt.Errorf("connect to lock River's migrations: %w", err)
	}
	defer locked.Close(context.WithoutCancel(ctx)) // the session's end releases the lock
	if _, err := locked.Exec(ctx, lockRiverSQL); err != nil {
		return false, fmt.Errorf("lock River's migrations: %w", err)
	}
	result, err := m.Migrate(ctx, to, how)
	if err != nil {
		return false, fmt.Errorf("migrate River's tables %s: %w", to, err)
	}
	return len(result.Versions) > 0, nil
}
