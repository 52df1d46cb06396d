package retention

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
	"odometer/migrations/pgtest"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

func do(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func ask(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) (n int64) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), sql, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// period gives a tenant, new or known, a month; closed and settled as asked.
func period(t *testing.T, pool *pgxpool.Pool, tenant uuid.UUID, start time.Time, closed, settled bool) {
	t.Helper()
	do(t, pool, `insert into subscriptions (tenant_id, status, period_interval, anchor) values ($1, 'active', 'month', $2) on conflict do nothing`, tenant, start)
	do(t, pool, `
insert into billing_periods (tenant_id, period_start, period_end, status, closed_epoch, closed_seq, closed_at, settled_at)
select $1, $2::timestamptz, $2::timestamptz + interval '1 month', case when $3 then 'closed' else 'open' end,
    case when $3 then 1 end, case when $3 then 1 end, case when $3 then now() end, case when $4 then now() end`, tenant, start, closed, settled)
}

const addSQL = `
with fresh as (
    insert into usage_events (tenant_id, event_id, agent, kind, action_type, quantity, idempotency_key,
        occurred_at, recorded_at, period_start, stream_epoch, stream_seq)
    select $1, gen_random_uuid(), 'inbox', 'usage', 'a', 1 + n % 3, n::text, $2, $3, $2, 1, n
    from generate_series(1, $4::int) n
    returning quantity
)
insert into usage_counters as c (tenant_id, agent, period_start, period_end, count)
select $1, 'inbox', $2, $2::timestamptz + interval '1 month', sum(quantity)
from fresh
on conflict (tenant_id, agent, period_start) do update set count = c.count + excluded.count`

// add counts n events of the period that begins at start.
func add(t *testing.T, pool *pgxpool.Pool, tenant uuid.UUID, start, recorded time.Time, n int) {
	t.Helper()
	do(t, pool, addSQL, tenant, start, recorded, n)
}

const wrongSQL = `
select count(*)
from usage_counters c
left join (
    select tenant_id, agent, period_start, sum(quantity) as quantity
    from usage_events group by tenant_id, agent, period_start
) e using (tenant_id, agent, period_start)
left join usage_removed r using (tenant_id, agent, period_start)
where c.count <> coalesce(e.quantity, 0) + coalesce(r.quantity, 0)`

func mustRun(t *testing.T, pool *pgxpool.Pool) Removed {
	t.Helper()
	removed, err := Run(t.Context(), pool, Options{Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	return removed
}

func TestOnlyOldEventsOfClosedAndSettledPeriodsAreRemoved(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	old, recent := now.Add(-odometer.MaxAge-time.Second), now.Add(-odometer.MaxAge)
	start := now.AddDate(0, -5, 0)
	settled, closed, open := uuid.New(), uuid.New(), uuid.New()
	period(t, pool, settled, start, true, true)
	period(t, pool, closed, start, true, false)
	period(t, pool, open, start, false, false)
	for _, tenant := range []uuid.UUID{settled, closed, open} {
		add(t, pool, tenant, start, old, 100)
		add(t, pool, tenant, start, recent, 10)
	}

	if got, want := mustRun(t, pool), (Removed{Events: 100, Quantity: 200}); got != want {
		t.Errorf("removed %+v, want %+v", got, want)
	}
	for tenant, want := range map[uuid.UUID]int64{settled: 10, closed: 110, open: 110} {
		if got := ask(t, pool, `select count(*) from usage_events where tenant_id = $1`, tenant); got != want {
			t.Errorf("%d events are left, want %d", got, want)
		}
	}
	if got := ask(t, pool, `select events * 1000 + quantity from usage_removed`); got != 100_200 {
		t.Errorf("usage_removed holds %d", got)
	}
	if got := ask(t, pool, wrongSQL); got != 0 {
		t.Errorf("%d counters are not their events and what was removed", got)
	}
	if got := mustRun(t, pool); got != (Removed{}) {
		t.Errorf("again it removed %+v", got)
	}
}

func TestRetentionBelowMaxAgeIsRefused(t *testing.T) {
	t.Parallel()
	_, err := Run(t.Context(), nil, Options{Retention: odometer.MaxAge - 1})
	if err == nil || !strings.Contains(err.Error(), "2160h") {
		t.Errorf("a shorter retention: %v", err)
	}
}

// What a step removes and what it adds to usage_removed commit together: a run that is cut off
// anywhere, beside a writer, never shows a counter without its evidence.
func TestCounterIsEventsPlusRemovedInEverySnapshot(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	do(t, pool, `insert into stream_epochs values (1, 1, now(), 2)`)
	do(t, pool, `insert into stream_positions (partition, stream_epoch, seq) values (0, 1, 0), (1, 1, 0)`)
	old, start := now.Add(-100*day), now.AddDate(0, -5, 0)
	var tenants []uuid.UUID
	for range 5 {
		tenant := uuid.New()
		tenants = append(tenants, tenant)
		period(t, pool, tenant, start, true, true)
		period(t, pool, tenant, start.AddDate(0, 1, 0), false, false)
		add(t, pool, tenant, start, old, 4000)
	}

	ctx, stop := context.WithCancel(t.Context())
	written := make(chan error, 1)
	go func() { written <- write(ctx, pool, tenants, start.AddDate(0, 1, 0)) }()
	checked := make(chan error, 1)
	checks := make(chan struct{}, 1000)
	go func() { checked <- check(ctx, pool, checks) }()

	<-checks
	cut, cancel := context.WithTimeout(ctx, 30*time.Millisecond)
	defer cancel()
	if _, err := Run(cut, pool, Options{Now: func() time.Time { return now }}); err != nil && cut.Err() == nil {
		t.Error(err)
	}
	mustRun(t, pool)
	<-checks
	stop()
	for _, err := range []error{<-written, <-checked} {
		if err != nil {
			t.Error(err)
		}
	}
	if got := ask(t, pool, `select sum(events) from usage_removed`); got != 20_000 {
		t.Errorf("%d events were removed, want 20000", got)
	}
	if got := ask(t, pool, `select max(rules_version) from stream_positions`); got == 0 {
		t.Error("no partition's rules version was raised")
	}
}

// write counts events until it is stopped.
func write(ctx context.Context, pool *pgxpool.Pool, tenants []uuid.UUID, start time.Time) error {
	for i := 0; ctx.Err() == nil; i++ {
		if _, err := pool.Exec(ctx, addSQL, tenants[i%len(tenants)], start, now, 20); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// check asks again and again whether a counter is wrong.
func check(ctx context.Context, pool *pgxpool.Pool, checks chan<- struct{}) error {
	for ctx.Err() == nil {
		var wrong int
		err := pool.QueryRow(ctx, wrongSQL).Scan(&wrong)
		if errors.Is(err, context.Canceled) {
			return nil
		}
		if err == nil && wrong > 0 {
			err = errors.New("a counter is not its events and what was removed")
		}
		if err != nil {
			return err
		}
		select {
		case checks <- struct{}{}:
		default:
		}
	}
	return nil
}

// The walk must read a stretch by its blocks: anything else reads the whole
// table for each step.
func TestStepReadsOnlyItsStretch(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	rows, _ := pool.Query(t.Context(), "explain "+tenantsSQL, blockStart(64), blockStart(128), now)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	if plan := strings.Join(lines, "\n"); !strings.Contains(plan, "Tid Range Scan") {
		t.Errorf("the plan of a step:\n%s", plan)
	}
}

func TestProcessedHooksAreRemoved(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	do(t, pool, `insert into stripe_hooks (hook_id, type, livemode, done_at) values
		('old', 't', false, $1), ('recent', 't', false, $2), ('waiting', 't', false, null)`, now.Add(-hooksKept-time.Second), now.Add(-hooksKept))
	if got := mustRun(t, pool); got != (Removed{Hooks: 1}) {
		t.Errorf("removed %+v", got)
	}
	if got := ask(t, pool, `select count(*) from stripe_hooks where hook_id <> 'old'`); got != 2 {
		t.Errorf("%d hooks are left, want 2", got)
	}
}
