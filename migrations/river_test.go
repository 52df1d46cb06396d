package migrations

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/rivermigrate"
)

// A database from before River's tables, or before their newest, is behind.
func TestARiverThatIsBehindIsADatabaseThatIsBehind(t *testing.T) {
	t.Parallel()
	pool := connect(t, emptyDatabase(t))
	if _, err := up(t.Context(), pool, embedded); err != nil {
		t.Fatal(err)
	}
	mustBeBehind(t, pool)
	applied, err := Up(t.Context(), pool)
	if err != nil || !slices.Equal(versions(applied), []int64{riverStep}) {
		t.Errorf("Up applied %+v, %v; want the step that River belongs to", applied, err)
	}
	if err := Check(t.Context(), pool); err != nil {
		t.Errorf("Check after Up: %v", err)
	}
	if _, err := migrateRiver(t.Context(), pool, rivermigrate.DirectionDown, nil); err != nil {
		t.Fatal(err)
	}
	mustBeBehind(t, pool)
}

func mustBeBehind(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	err := Check(t.Context(), pool)
	if !errors.Is(err, ErrBehind) || !strings.Contains(err.Error(), "odometer migrate up") {
		t.Errorf("Check = %v, want ErrBehind with the remedy", err)
	}
	all, err := Status(t.Context(), pool)
	if err != nil || slices.Contains(versions(all), riverStep) {
		t.Errorf("Status = %+v, %v; want step %d not applied", all, err, riverStep)
	}
}

func TestARiverThatIsAheadIsADatabaseThatIsAhead(t *testing.T) {
	t.Parallel()
	pool := connect(t, emptyDatabase(t))
	if _, err := Up(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	execute(t, pool, `insert into river_migration (line, version) values ('main', 9999)`)
	if err := Check(t.Context(), pool); !errors.Is(err, ErrAhead) {
		t.Errorf("Check = %v, want ErrAhead", err)
	}
	if _, err := Up(t.Context(), pool); !errors.Is(err, ErrAhead) {
		t.Errorf("Up = %v, want ErrAhead", err)
	}
	if all, err := Status(t.Context(), pool); err != nil || !slices.Contains(versions(all), riverStep) {
		t.Errorf("Status = %+v, %v", all, err)
	}
}

func TestRiverIsAppliedOnceByFourAtOnce(t *testing.T) {
	t.Parallel()
	database := emptyDatabase(t)
	failed := make(chan error)
	for range 4 {
		pool := connect(t, database)
		go func() { failed <- second(Up(t.Context(), pool)) }()
	}
	for range 4 {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	if err := Check(t.Context(), connect(t, database)); err != nil {
		t.Error(err)
	}
}

func TestFingerprintChangesWithRiver(t *testing.T) {
	t.Parallel()
	known, err := riverKnown()
	if err != nil || len(known) == 0 {
		t.Fatalf("River's migrations: %v, %v", known, err)
	}
	if fingerprint(embedded, known...) == fingerprint(embedded, known[1:]...) || Fingerprint() != fingerprint(embedded, known...) {
		t.Error("the fingerprint does not depend on River's migrations")
	}
}
