package query

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

func TestSnapshotIsBoundedAndOnlyRead(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
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
func TestWhatTakesTooLongSaysWhatToDo(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
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
	b := newBooks(t)
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
