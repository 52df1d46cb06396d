package migrations

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
)

func TestUpIsAppliedOnceByFourProcesses(t *testing.T) {
	t.Parallel()
	database := emptyDatabase(t)
	printed := make(chan string)
	for range 4 {
		go func() {
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), migrateEnv+"="+database)
			out, err := cmd.CombinedOutput()
			if err != nil {
				out = fmt.Appendf(out, "%v", err)
			}
			printed <- string(out)
		}()
	}
	got := []string{<-printed, <-printed, <-printed, <-printed}
	slices.Sort(got)
	if want := []string{"0", "0", "0", "2"}; !slices.Equal(got, want) {
		t.Errorf("the processes applied %q, want %q", got, want)
	}
}

func TestUpTwiceChangesNothing(t *testing.T) {
	t.Parallel()
	pool := connect(t, emptyDatabase(t))
	first, err := Up(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	names, _ := fs.Glob(embedded, "*.sql")
	if len(first) != len(names) || !first[0].Applied || first[0].AppliedAt == nil || first[0].AppliedAt.IsZero() {
		t.Errorf("Up applied %+v, want all %d", first, len(names))
	}
	before, _ := Status(t.Context(), pool)
	second, err := Up(t.Context(), pool)
	if err != nil || len(second) != 0 {
		t.Errorf("Up again applied %v, %v; want nothing", second, err)
	}
	after, _ := Status(t.Context(), pool)
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("Up again changed the status:\n%s", diff)
	}
	if err := Check(t.Context(), pool); err != nil {
		t.Errorf("Check after Up: %v", err)
	}
}

func TestFilesAreNumberedWithoutGaps(t *testing.T) {
	t.Parallel()
	known, err := knownMigrations(embedded)
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range known {
		if prefix := fmt.Sprintf("%05d_", i+1); !strings.HasPrefix(m.Name, prefix) {
			t.Errorf("migration %d is named %s, want %s...", i+1, m.Name, prefix)
		}
	}
}

const ownRelationsSQL = `
select relname from pg_class c
 where relnamespace = 'public'::regnamespace and relname not like 'goose%' and relkind in ('r', 'p', 'v', 'm', 'S')
   and not exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'e')`

func TestEveryMigrationCanBeTakenBackAndAppliedAgain(t *testing.T) {
	t.Parallel()
	pool := connect(t, emptyDatabase(t))
	all, err := Up(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	for i := len(all) - 1; i >= 0; i-- {
		got, err := Down(t.Context(), pool, false)
		if err != nil {
			t.Fatal(err)
		}
		if want := (Migration{Version: all[i].Version, Name: all[i].Name}); got != want {
			t.Errorf("Down took back %+v, want %+v", got, want)
		}
	}
	rows, _ := pool.Query(t.Context(), ownRelationsSQL)
	left, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(left) > 0 {
		t.Errorf("after everything was taken back there is still %v, %v", left, err)
	}
	if _, err := Down(t.Context(), pool, false); err == nil {
		t.Error("Down of nothing succeeded")
	}
	if again, err := Up(t.Context(), pool); err != nil || len(again) != len(all) {
		t.Errorf("Up again applied %d of %d: %v", len(again), len(all), err)
	}
}

func TestFailedMigrationLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	pool := connect(t, emptyDatabase(t))
	applied, err := up(t.Context(), pool, three)
	if err == nil || !strings.Contains(err.Error(), "00003_wrong") {
		t.Errorf("up = %v, want an error that names 00003_wrong", err)
	}
	if got := versions(applied); !slices.Equal(got, []int64{1, 2}) {
		t.Errorf("up returned %v beside the error, want 1 and 2", got)
	}
	all, err := status(t.Context(), pool, three)
	if got := versions(all); err != nil || !slices.Equal(got, []int64{1, 2}) {
		t.Errorf("status says %v are applied, %v; want 1 and 2", got, err)
	}
	var half bool
	if err := pool.QueryRow(t.Context(), tableExistsSQL, "half").Scan(&half); err != nil || half {
		t.Errorf("the failed migration's table exists: %v, %v", half, err)
	}
}

func TestDownRefusesToDropEventsOrLedger(t *testing.T) {
	t.Parallel()
	pool := connect(t, emptyDatabase(t))
	if _, err := up(t.Context(), pool, two); err != nil {
		t.Fatal(err)
	}
	execute(t, pool, `insert into usage_events values (1), (2)`)
	execute(t, pool, `create table overage_reports as select 1`)

	_, err := down(t.Context(), pool, two, false)
	if !errors.Is(err, ErrWouldDestroy) {
		t.Fatalf("down = %v, want ErrWouldDestroy", err)
	}
	for _, word := range []string{"usage_events holds 2", "overage_reports holds 1", "--force"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error %q does not contain %q", err, word)
		}
	}
	if got, err := down(t.Context(), pool, two, true); err != nil || got.Name != "00002_more" {
		t.Errorf("down by force = %+v, %v; want 00002_more", got, err)
	}
}

// A table whose rows are hidden by row-level security does not count as empty.
func TestDownSeesThroughRowSecurity(t *testing.T) {
	t.Parallel()
	database := emptyDatabase(t)
	admin := connect(t, database)
	execute(t, admin, `do $$ begin create role fenced login; exception when duplicate_object then end $$`)
	execute(t, admin, `grant all on schema public to fenced`)

	u, _ := url.Parse(database)
	u.User = url.User("fenced")
	pool := connect(t, u.String())
	if _, err := up(t.Context(), pool, two); err != nil {
		t.Fatal(err)
	}
	execute(t, pool, `insert into usage_events values (1)`)
	execute(t, pool, `alter table usage_events enable row level security`)
	execute(t, pool, `alter table usage_events force row level security`)
	if got, err := down(t.Context(), pool, two, false); err == nil {
		t.Errorf("down reverted %v although it could not see the rows", got)
	}
}

func TestCheckDistinguishesBehindFromAhead(t *testing.T) {
	t.Parallel()
	pool := connect(t, emptyDatabase(t))
	err := check(t.Context(), pool, one)
	if !errors.Is(err, ErrBehind) || !strings.Contains(err.Error(), "odometer migrate up") {
		t.Errorf("check of an empty database = %v, want ErrBehind with the remedy", err)
	}
	if _, err := up(t.Context(), pool, one); err != nil {
		t.Fatal(err)
	}
	if err := check(t.Context(), pool, two); !errors.Is(err, ErrBehind) {
		t.Errorf("check by the newer binary = %v, want ErrBehind", err)
	}
	if _, err := up(t.Context(), pool, two); err != nil {
		t.Fatal(err)
	}
	if err := check(t.Context(), pool, two); err != nil {
		t.Errorf("check by the same binary = %v", err)
	}
	for what, err := range map[string]error{
		"check": check(t.Context(), pool, one),
		"up":    second(up(t.Context(), pool, one)),
		"down":  second(down(t.Context(), pool, one, true)),
	} {
		if !errors.Is(err, ErrAhead) {
			t.Errorf("%s by the older binary = %v, want ErrAhead", what, err)
		}
	}
	all, err := status(t.Context(), pool, one)
	if got := versions(all); err != nil || !slices.Equal(got, []int64{1, 2}) || all[1].Name != "" {
		t.Errorf("status by the older binary = %+v, %v; want 2 without a name", all, err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestStatusAndCheckOnlyRead(t *testing.T) {
	t.Parallel()
	pool := connect(t, emptyDatabase(t)+"&default_transaction_read_only=on")
	all, err := status(t.Context(), pool, two)
	if err != nil || len(all) != 2 || len(versions(all)) != 0 {
		t.Errorf("status of an empty database = %+v, %v; want two, none applied", all, err)
	}
	if err := check(t.Context(), pool, two); !errors.Is(err, ErrBehind) {
		t.Errorf("check of an empty database = %v, want ErrBehind", err)
	}
}

func TestOneConnectionIsEnough(t *testing.T) {
	t.Parallel()
	pool := connect(t, emptyDatabase(t)+"&pool_max_conns=1")
	if _, err := Up(t.Context(), pool); err != nil {
		t.Error(err)
	}
	if _, err := Down(t.Context(), pool, false); err != nil {
		t.Error(err)
	}
}

func TestFingerprintChangesWithEveryByte(t *testing.T) {
	t.Parallel()
	changed := with(one, "00001_events.sql", file("create table usage_events (id  int);", ""))
	renamed := fstest.MapFS{"00001_event.sql": one["00001_events.sql"]}
	prints := map[string]bool{}
	for _, set := range []fs.FS{one, two, changed, renamed} {
		prints[fingerprint(set)] = true
	}
	if len(prints) != 4 {
		t.Errorf("fingerprints of four sets: %v", prints)
	}
	same := with(one, "00001_events.sql", file("create table usage_events (id int);", "drop table usage_events;"))
	if fingerprint(one) != fingerprint(same) {
		t.Error("the same files have two fingerprints")
	}
}
