package query

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
)

func TestSnapshotIsBoundedAndReadOnly(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	err := inSnapshot(context.Background(), b.pool, func(ctx context.Context, tx pgx.Tx) error {
		for setting, want := range map[string]string{
			"statement_timeout": "15s", "transaction_isolation": "repeatable read", "transaction_read_only": "on",
			"jit": "off", "max_parallel_workers_per_gather": "0", "plan_cache_mode": "force_custom_plan",
		} {
			var got string
			if err := tx.QueryRow(ctx, `select current_setting($1)`, setting).Scan(&got); err != nil || got != want {
				t.Errorf("%s is %s (%v), want %s", setting, got, err, want)
			}
		}
		return nil
	})
	if err != nil || statementTimeout != 15*time.Second {
		t.Error(statementTimeout, err)
	}
}

const waitingSQL = `
select count(*)
from pg_stat_activity
where datname = current_database()
  and wait_event_type = 'Lock'`

const stopSQL = `
select pg_cancel_backend(pid)
from pg_stat_activity
where datname = current_database()
  and wait_event_type = 'Lock'`

// A statement whose time is over ends as one that is stopped.
func TestTooSlowReadsSayWhatToDo(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := b.customer("price_bundle_monthly")
	ctx := context.Background()
	tx, err := b.pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(ctx)
	if _, err := tx.Exec(ctx, `lock table usage_events`); err != nil {
		t.Fatal(err)
	}
	for name, read := range map[string]func() error{
		"history": func() error { _, err := ReadHistory(ctx, b.pool, HistoryRequest{Reader: reading(tenant)}); return err },
		"events":  func() error { _, err := ReadEvents(ctx, b.pool, EventsRequest{Reader: reading(tenant)}); return err },
		"export": func() error {
			e, err := OpenExport(ctx, b.pool, EventsRequest{Reader: reading(tenant)})
			closeExport(e)
			return err
		},
	} {
		ended := make(chan error, 1)
		go func() { ended <- read() }()
		for waiting := 0; waiting == 0; {
			if err := b.pool.QueryRow(ctx, waitingSQL).Scan(&waiting); err != nil {
				t.Fatal(err)
			}
		}
		b.exec(stopSQL)
		t.Log(name)
		wantRefused(t, <-ended, ErrTooMuch, "Ask for a shorter span of time")
	}
}

// Retention that comes between two statements of an answer is not seen by it.
func TestAnswerIsOneSnapshot(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := b.customer("price_bundle_monthly")
	b.add(tenant, Event{OccurredAt: instant("2026-11-10T00:00:00Z")})
	request := november(tenant)
	err := inSnapshot(context.Background(), b.pool, func(ctx context.Context, tx pgx.Tx) error {
		rows, err := load(ctx, tx, request.Reader)
		if err != nil {
			return err
		}
		from, err := completeFrom(ctx, tx, tenant)
		if err != nil || from != nil {
			t.Errorf("complete from %v: %v", from, err)
		}
		b.exec(`delete from usage_events where tenant_id = $1`, tenant)
		b.removed(tenant, "2027-03-01T00:00:00Z")
		l, err := request.list(rows[0].Now)
		if err != nil {
			return err
		}
		page := Events{TenantID: uuid.Nil}
		if err := page.fill(ctx, tx, l, 10); err != nil || len(page.Events) != 1 {
			t.Errorf("%d events beside nothing that was removed: %v", len(page.Events), err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// Every read of a tenant refuses as GET /api/v1/usage does.
func TestAllReadsRefuseAsUsageDoes(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	ctx := context.Background()
	ask := map[string]func(Reader) error{
		"history": func(who Reader) error { _, err := ReadHistory(ctx, b.pool, HistoryRequest{Reader: who}); return err },
		"events":  func(who Reader) error { _, err := ReadEvents(ctx, b.pool, EventsRequest{Reader: who}); return err },
		"export": func(who Reader) error {
			e, err := OpenExport(ctx, b.pool, EventsRequest{Reader: who})
			closeExport(e)
			return err
		},
		"forecast": func(who Reader) error { _, err := ReadForecast(ctx, b.pool, who); return err },
		"periods":  func(who Reader) error { _, err := ReadPeriods(ctx, b.pool, PeriodsRequest{Reader: who}); return err },
		"alerts":   func(who Reader) error { _, err := ReadAlerts(ctx, b.pool, who); return err },
	}
	late, planless, ahead := b.customer("price_bundle_monthly"), b.customer(""), b.subscribe(odometer.Active, "price_bundle_monthly")
	b.exec(`update subscriptions set status = 'past_due' where tenant_id = $1`, late)
	for name, read := range ask {
		wantRefused(t, read(Reader{Tenant: uuid.New()}), ErrNoSubscription, "has no subscription")
		wantRefused(t, read(Reader{Tenant: uuid.New(), Operator: true}), ErrNoSubscription, "has no subscription")
		wantRefused(t, read(Reader{Tenant: ahead}), ErrNotBegun, "no billing period")
		wantRefused(t, read(Reader{Tenant: late}), ErrInactive, "past_due")
		wantRefused(t, read(Reader{Tenant: planless}), ErrNoPlan, "no plan")
		for _, id := range []uuid.UUID{late, planless} {
			if err := read(Reader{Tenant: id, Operator: true}); err != nil {
				t.Errorf("%s for an operator: %v", name, err)
			}
		}
	}
	b.exec(`update stream_positions set complete_until = null`)
	unread := b.customer("price_bundle_monthly")
	for _, read := range ask {
		wantRefused(t, read(Reader{Tenant: unread}), ErrNotRead, "not known yet")
		wantRefused(t, read(Reader{Tenant: unread, Operator: true}), ErrNotRead, "not known yet")
	}
}

func closeExport(e *Export) {
	if e != nil {
		e.Close()
	}
}

// queryCounter counts statements that are sent to the database.
type queryCounter struct{ queries int }

func (a *queryCounter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	a.queries++
	return ctx
}

func (a *queryCounter) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func TestAnswerIsOneStatement(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := exampleCustomer(b)
	config := b.pool.Config().Copy()
	var seen queryCounter
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

func TestAnswerIsCheapToPlanWithoutStatistics(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
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
	_, figures, _ := strings.Cut(plan[0], "(")
	var rest, cost float64
	if _, err := fmt.Sscanf(figures, "cost=%f..%f", &rest, &cost); err != nil || cost > 10_000 {
		t.Errorf("cost %f (%v); the JIT begins at 100,000:\n%s", cost, err, strings.Join(plan, "\n"))
	}
}
