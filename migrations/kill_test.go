package migrations

import (
	"context"
	"io/fs"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"odometer/internal/soak"
)

// TestUpKilledAtAnyStatementCanBeRunAgain ends the session before a statement,
// then migrates again and compares the schemas.
func TestUpKilledAtAnyStatementCanBeRunAgain(t *testing.T) {
	t.Parallel()
	upAll := func(ctx context.Context, pool *pgxpool.Pool) error { return second(Up(ctx, pool)) }
	want := schemaAfterUp(t)
	killEach(t, emptyDatabase, upAll, want)
}

// TestDownKilledAtAnyStatementCanBeRunAgain does so while every migration is
// taken back.
func TestDownKilledAtAnyStatementCanBeRunAgain(t *testing.T) {
	t.Parallel()
	known, err := knownMigrations(embedded)
	if err != nil {
		t.Fatal(err)
	}
	downAll := func(ctx context.Context, pool *pgxpool.Pool) error {
		for range known {
			if _, err := Down(ctx, pool, false); err != nil {
				return err
			}
		}
		return nil
	}
	migrated := emptyDatabase(t)
	pool, err := pgxpool.New(t.Context(), migrated)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Up(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	want := schema(t, pool)
	pool.Close() // a database with sessions cannot be cloned
	killEach(t, func(t *testing.T) string { return cloneOf(t, migrated) }, downAll, want)
}

// killEach calls do on a new database once for each statement to kill it at,
// runs Up and compares the schema.
func killEach(t *testing.T, newDatabase func(*testing.T) string, do func(context.Context, *pgxpool.Pool) error, want []string) {
	t.Helper()
	statements := runKilled(t, newDatabase(t), 0, do)
	for _, n := range killsOf(t, statements) {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			database := newDatabase(t)
			runKilled(t, database, n, do)
			pool := connect(t, database)
			if _, err := Up(t.Context(), pool); err != nil {
				t.Errorf("Up after a kill at %q: %v", statements[n-1], err)
			} else if diff := cmp.Diff(want, schema(t, pool)); diff != "" {
				t.Errorf("Up after a kill at %q leaves another schema:\n%s", statements[n-1], diff)
			}
		})
	}
}

// killsOf chooses the statements to kill at, counted from 1: those that commit
// and the ones after them, those that run outside a transaction, and some of the
// rest, which is all of it in a soak run.
func killsOf(t *testing.T, statements []string) (kills []int) {
	t.Helper()
	step := max(1, len(statements)/soak.Rounds(t, 5, 15))
	after := false
	for i, s := range statements {
		commits := s == "commit" || strings.Contains(strings.ToLower(s), "concurrently")
		if commits || after || i%step == 0 {
			kills = append(kills, i+1)
		}
		after = commits
	}
	if !slices.Contains(statements, "commit") || len(kills) < 15 {
		t.Fatalf("only %d of %q are killed", len(kills), statements)
	}
	return kills
}

// TestUpFinishesWhatRiversMigratorLeft migrates a database of an older binary:
// at 00003, with River's tables at any of the versions where a kill left them.
func TestUpFinishesWhatRiversMigratorLeft(t *testing.T) {
	t.Parallel()
	want := schemaAfterUp(t)
	first := fstest.MapFS{}
	for _, name := range []string{"00001_counting.sql", "00002_billing.sql", "00003_audits.sql"} {
		content, err := fs.ReadFile(embedded, name)
		if err != nil {
			t.Fatal(err)
		}
		first[name] = &fstest.MapFile{Data: content}
	}
	for version := range riverVersions(t) + 1 {
		pool := connect(t, emptyDatabase(t))
		if _, err := up(t.Context(), pool, first); err != nil {
			t.Fatal(err)
		}
		migrateRiver(t, pool, version)
		if version >= 4 {
			execute(t, pool, `insert into river_queue (name, paused_at, updated_at) values ('alerts', now(), now())`)
		}
		if _, err := Up(t.Context(), pool); err != nil {
			t.Errorf("Up with River at version %d: %v", version, err)
			continue
		}
		if diff := cmp.Diff(want, schema(t, pool)); diff != "" {
			t.Errorf("with River at version %d the schema differs:\n%s", version, diff)
		}
		var paused int
		if err := pool.QueryRow(t.Context(), `select count(*) from river_queue where paused_at is not null`).Scan(&paused); err != nil || (paused == 1) != (version >= 4) {
			t.Errorf("with River at version %d: %d jobs are paused, %v", version, paused, err)
		}
	}
}

// TestRiversTablesAreThoseOfItsOwnMigrations fails when go.mod has a River with
// another schema: add a migration with the difference.
func TestRiversTablesAreThoseOfItsOwnMigrations(t *testing.T) {
	t.Parallel()
	ours, theirs := connect(t, emptyDatabase(t)), connect(t, emptyDatabase(t))
	if _, err := Up(t.Context(), ours); err != nil {
		t.Fatal(err)
	}
	migrateRiver(t, theirs, riverVersions(t))
	river := func(pool *pgxpool.Pool) (lines []string) {
		for _, line := range schema(t, pool) {
			// River's record of its own migrations is the only table that we do not need.
			if strings.Contains(line, "river") && !strings.Contains(line, "river_migration") {
				lines = append(lines, line)
			}
		}
		return lines
	}
	if diff := cmp.Diff(river(theirs), river(ours)); diff != "" {
		t.Errorf("River's own schema (-) differs from ours (+):\n%s", diff)
	}
}

func riverMigrator(t *testing.T, pool *pgxpool.Pool) *rivermigrate.Migrator[pgx.Tx] {
	t.Helper()
	m, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func riverVersions(t *testing.T) int {
	t.Helper()
	all := riverMigrator(t, nil).AllVersions()
	return all[len(all)-1].Version
}

// migrateRiver migrates River's tables by River's own migrator.
func migrateRiver(t *testing.T, pool *pgxpool.Pool, version int) {
	t.Helper()
	if version == 0 {
		return
	}
	_, err := riverMigrator(t, pool).Migrate(t.Context(), rivermigrate.DirectionUp, &rivermigrate.MigrateOpts{TargetVersion: version})
	if err != nil {
		t.Fatal(err)
	}
}

// runKilled calls do with a pool whose session ends before the n-th statement,
// as when the process is killed, and returns the statements; 0 kills nothing.
func runKilled(t *testing.T, database string, n int, do func(context.Context, *pgxpool.Pool) error) (statements []string) {
	t.Helper()
	k := &killer{t: t, admin: connect(t, server.URL()), blocker: connect(t, database), at: n}
	config, err := pgxpool.ParseConfig(database)
	if err != nil {
		t.Fatal(err)
	}
	config.ConnConfig.Tracer = k
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	err = do(t.Context(), pool)
	k.wait.Wait()
	if k.dead != (n > 0) || k.dead != (err != nil) {
		t.Fatalf("killed %v at statement %d, and it ended with %v", k.dead, n, err)
	}
	return k.statements
}

// killer ends a session at one of its statements. Afterwards no statement
// reaches the server.
type killer struct {
	t              *testing.T
	admin, blocker *pgxpool.Pool
	wait           sync.WaitGroup

	mu         sync.Mutex
	at         int
	statements []string
	dead       bool
}

// TraceQueryStart is called before each statement.
func (k *killer) TraceQueryStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	k.mu.Lock()
	defer k.mu.Unlock()
	pid := conn.PgConn().PID()
	k.statements = append(k.statements, data.SQL)
	if k.at == 0 || len(k.statements) < k.at {
		return ctx
	}
	if !k.dead && strings.Contains(strings.ToLower(data.SQL), "create index concurrently") {
		k.dead = true
		k.killInside(pid)
		return ctx
	}
	k.dead = true
	k.terminate(pid)
	ended, cancel := context.WithCancel(ctx)
	cancel()
	return ended
}

// TraceQueryEnd is part of pgx's interface.
func (k *killer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (k *killer) terminate(pid uint32) {
	if _, err := k.admin.Exec(k.t.Context(), `select pg_terminate_backend($1::int, 10000)`, pid); err != nil {
		k.t.Errorf("end session %d: %v", pid, err)
	}
}

// killInside ends the session in the middle of the statement: a writer's lock
// makes it wait, half done.
func (k *killer) killInside(pid uint32) {
	writer, err := k.blocker.Begin(k.t.Context())
	if err != nil {
		k.t.Error(err)
		return
	}
	if _, err := writer.Exec(k.t.Context(), `lock table usage_events in row exclusive mode`); err != nil {
		k.t.Error(err)
	}
	k.wait.Go(func() {
		defer writer.Rollback(context.WithoutCancel(k.t.Context()))
		waiting := false
		for start := time.Now(); !waiting && time.Since(start) < 10*time.Second; time.Sleep(5 * time.Millisecond) {
			err := k.admin.QueryRow(k.t.Context(), `select exists (select from pg_stat_activity where pid = $1::int and wait_event_type = 'Lock')`, pid).Scan(&waiting)
			if err != nil {
				k.t.Error(err)
				break
			}
		}
		if !waiting {
			k.t.Error("the statement did not wait for a writer")
		}
		k.terminate(pid)
	})
}

func schemaAfterUp(t *testing.T) []string {
	t.Helper()
	pool := connect(t, emptyDatabase(t))
	if _, err := Up(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	return schema(t, pool)
}

// A line for everything that a migration can create.
const schemaSQL = `
with ours as (
    select c.oid, c.relname, c.relkind, c.relpersistence, c.reloptions
    from pg_class c
    where c.relnamespace = 'public'::regnamespace
      and c.relname not like 'goose%'
      and not exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'e')
)
select format('relation %s kind %s persistence %s %s', relname, relkind, relpersistence, reloptions)
from ours
union all
select format('column %s.%s %s null=%s default %s', o.relname, a.attname, format_type(a.atttypid, a.atttypmod),
    not a.attnotnull, pg_get_expr(d.adbin, d.adrelid))
from ours o
join pg_attribute a on a.attrelid = o.oid and a.attnum > 0 and not a.attisdropped
left join pg_attrdef d on d.adrelid = o.oid and d.adnum = a.attnum
where o.relkind <> 'i'
union all
select format('constraint %s on %s %s', k.conname, o.relname, pg_get_constraintdef(k.oid))
from ours o
join pg_constraint k on k.conrelid = o.oid
union all
select format('index %s valid=%s', pg_get_indexdef(i.indexrelid), i.indisvalid)
from ours o
join pg_index i on i.indexrelid = o.oid
union all
select format('trigger %s', pg_get_triggerdef(g.oid))
from ours o
join pg_trigger g on g.tgrelid = o.oid and not g.tgisinternal
union all
select format('function %s', pg_get_functiondef(p.oid))
from pg_proc p
where p.pronamespace = 'public'::regnamespace
  and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')
union all
select format('enum %s %s', t.typname, (select array_agg(e.enumlabel order by e.enumsortorder) from pg_enum e where e.enumtypid = t.oid))
from pg_type t
where t.typnamespace = 'public'::regnamespace and t.typtype = 'e'
order by 1`

func schema(t *testing.T, pool *pgxpool.Pool) []string {
	t.Helper()
	rows, _ := pool.Query(t.Context(), schemaSQL)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return lines
}
