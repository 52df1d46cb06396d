package query

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
)

// asked counts what is sent to the database.
type asked struct{ queries int }

func (a *asked) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	a.queries++
	return ctx
}

func (a *asked) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func TestAnswerIsOneStatement(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	tenant := exampleCustomer(b)
	config := b.pool.Config().Copy()
	var seen asked
	config.ConnConfig.Tracer = &seen
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if _, err := Usage(context.Background(), pool, tenant); err != nil {
		t.Fatal(err)
	}
	if seen.queries != 1 {
		t.Errorf("%d statements", seen.queries)
	}
}

func TestAnswerIsPlannedAsCheapWithoutStatistics(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	tenant := exampleCustomer(b)
	conn, err := b.pool.Acquire(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	for _, sql := range []string{`set plan_cache_mode = force_generic_plan`, `prepare answer (uuid, bigint) as ` + usageSQL} {
		if _, err := conn.Exec(context.Background(), sql); err != nil {
			t.Fatal(err)
		}
	}
	execute := fmt.Sprintf(`explain execute answer ('%s', %d)`, tenant, odometer.PartitionHash(tenant))
	rows, err := conn.Query(context.Background(), execute)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(plan, "\n"); strings.Contains(text, "JIT") {
		t.Errorf("the statement is compiled each time:\n%s", text)
	}
	var rest, cost float64
	if _, err := fmt.Sscanf(plan[0][strings.Index(plan[0], "("):], "(cost=%f..%f", &rest, &cost); err != nil || cost > 10_000 {
		t.Errorf("cost %f (%v); the JIT begins at 100,000:\n%s", cost, err, strings.Join(plan, "\n"))
	}
}
