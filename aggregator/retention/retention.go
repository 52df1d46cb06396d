// Package retention removes events when nobody needs them any more:
// [odometer.MaxAge] and more after the stream stored them, and only from periods
// that are closed and settled with Stripe. Until then an event is the evidence
// behind a bill, and it is also what remembers its key.
//
// It works in small steps, each a transaction of its own under the lock of the
// partitions concerned. A step adds what it removes to usage_removed before
// it commits, so that in every snapshot a counter is the sum of its events plus
// what was removed. Whatever ends a run, the next one goes on: nothing is kept
// but what a step has committed.
//
// The rows to remove are found by one pass over the table, which remembers only
// the stretches of blocks that hold some. Asking for "the next 5,000 old rows"
// instead would walk over the same dead and unsettled rows each time, and the
// BRIN index is no help with that for long: once new rows fill the space of
// removed ones, every range of blocks holds old and new.
package retention

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
	"odometer/billing"
)

const (
	// stretch is how many blocks of usage_events a step scans: about 2,500
	// rows, which are gone within some 50 ms of holding up the readers.
	stretch = 64

	// hooksKept is how long Stripe's hooks are remembered after they were
	// processed; Stripe repeats a hook for three days.
	hooksKept = 90 * 24 * time.Hour
)

// Options say what a run goes by.
type Options struct {
	Retention time.Duration    // of events after they were stored; 0 for the least, odometer.MaxAge
	Now       func() time.Time // nil for time.Now
	Log       *slog.Logger     // nil for none
}

// Removed is what a run removed.
type Removed struct {
	Events   int64
	Quantity int64 // the sum of the events' quantities, added to usage_removed
	Hooks    int64 // Stripe's hooks
}

// Run removes what is older than the retention. It may run beside readers and
// beside itself. What it returns is committed, also beside an error.
func Run(ctx context.Context, pool *pgxpool.Pool, o Options) (Removed, error) {
	if o.Retention == 0 {
		o.Retention = odometer.MaxAge
	}
	if o.Retention < odometer.MaxAge {
		return Removed{}, fmt.Errorf("retention of %s: events remember their keys for %s, give at least that", o.Retention, odometer.MaxAge)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	r := run{pool: pool, before: o.Now().Add(-o.Retention)}
	err := r.events(ctx)
	if err == nil {
		err = r.hooks(ctx, o.Now().Add(-hooksKept))
	}
	if r.removed != (Removed{}) {
		o.Log.Info("removed what is older than the retention", "events", r.removed.Events,
			"quantity", r.removed.Quantity, "stored_before", r.before, "hooks", r.removed.Hooks)
	}
	return r.removed, err
}

// run is one run.
type run struct {
	pool    *pgxpool.Pool
	before  time.Time // what the stream stored earlier leaves
	removed Removed
}

// events removes the events, stretch by stretch. Between two steps it leaves
// the readers more time than it took from them: each step also makes them load
// the rules again.
func (r *run) events(ctx context.Context) error {
	stretches, err := r.stretches(ctx)
	if err != nil {
		return err
	}
	for _, s := range stretches {
		began := time.Now()
		if err := r.step(ctx, s*stretch); err != nil {
			return err
		}
		if err := odometer.Sleep(ctx, 2*time.Since(began)); err != nil {
			return err
		}
	}
	return nil
}

// A row's ctid is (block, offset), which Postgres can read as a point.
const stretchesSQL = `
select distinct (e.ctid::text::point)[0]::bigint / $2 as stretch
from usage_events e
join billing_periods p on p.tenant_id = e.tenant_id and p.period_start = e.period_start
where e.recorded_at < $1
  and p.status = 'closed'
  and p.settled_at is not null
order by stretch`

// stretches lists the stretches of the table that hold rows to remove. Rows
// that move while the run goes on are found by the next one.
func (r *run) stretches(ctx context.Context) ([]int64, error) {
	rows, _ := r.pool.Query(ctx, stretchesSQL, r.before, stretch)
	found, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, fmt.Errorf("find events stored before %s: %w", r.before.Format(time.RFC3339), err)
	}
	return found, nil
}

// step removes the old rows of the stretch that begins at the block.
func (r *run) step(ctx context.Context, block int64) error {
	from, to := blockStart(block), blockStart(block+stretch)
	var done Removed
	err := pgx.BeginFunc(ctx, r.pool, func(tx pgx.Tx) error {
		tenants, err := r.tenants(ctx, tx, from, to)
		if err != nil || len(tenants) == 0 {
			return err
		}
		if err := billing.Lock(ctx, tx, tenants...); err != nil {
			return err
		}
		return tx.QueryRow(ctx, removeSQL, from, to, r.before, tenants).Scan(&done.Events, &done.Quantity)
	})
	if err != nil {
		return fmt.Errorf("remove events of the blocks from %d on: %w", block, err)
	}
	r.removed.Events += done.Events
	r.removed.Quantity += done.Quantity
	return nil
}

// blockStart is the ctid before the first row of a block.
func blockStart(block int64) pgtype.TID {
	return pgtype.TID{BlockNumber: uint32(block), Valid: true}
}

const tenantsSQL = `
select distinct e.tenant_id
from usage_events e
join billing_periods p on p.tenant_id = e.tenant_id and p.period_start = e.period_start
where e.ctid >= $1
  and e.ctid < $2
  and e.recorded_at < $3
  and p.status = 'closed'
  and p.settled_at is not null`

func (r *run) tenants(ctx context.Context, tx pgx.Tx, from, to pgtype.TID) ([]uuid.UUID, error) {
	rows, _ := tx.Query(ctx, tenantsSQL, from, to, r.before)
	return pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
}

// What is deleted and what is added to usage_removed come from the same rows. A
// tenant whose events become removable only after the lock was taken is left to
// the next run.
const removeSQL = `
with gone as (
    delete from usage_events e
    using billing_periods p
    where e.ctid >= $1
      and e.ctid < $2
      and e.recorded_at < $3
      and e.tenant_id = any($4)
      and p.tenant_id = e.tenant_id
      and p.period_start = e.period_start
      and p.status = 'closed'
      and p.settled_at is not null
    returning e.tenant_id, e.agent, e.period_start, e.quantity
),
recorded as (
    insert into usage_removed as r (tenant_id, agent, period_start, quantity, events, stored_before)
    select tenant_id, agent, period_start, sum(quantity)::bigint, count(*), $3::timestamptz
    from gone
    group by tenant_id, agent, period_start
    order by tenant_id, agent, period_start
    on conflict (tenant_id, agent, period_start) do update
    set quantity = r.quantity + excluded.quantity,
        events = r.events + excluded.events,
        stored_before = greatest(r.stored_before, excluded.stored_before),
        updated_at = now()
)
select count(*), coalesce(sum(quantity), 0)::bigint
from gone`

const removeHooksSQL = `
delete from stripe_hooks
where hook_id in (
    select hook_id
    from stripe_hooks
    where done_at < $1
    limit $2
)`

// hooks removes Stripe's hooks that were processed before that time.
func (r *run) hooks(ctx context.Context, before time.Time) error {
	const atOnce = 5000
	for {
		done, err := r.pool.Exec(ctx, removeHooksSQL, before, atOnce)
		if err != nil {
			return fmt.Errorf("remove hooks done before %s: %w", before.Format(time.RFC3339), err)
		}
		r.removed.Hooks += done.RowsAffected()
		if done.RowsAffected() < atOnce {
			return nil
		}
	}
}
