// Package billing holds the rules of counting and billing: the catalogue, each
// tenant's subscription, and the billing periods that follow from it.
//
// What a message counts as depends on these rules, so they must not change
// while a batch is being counted. Every change here therefore begins by
// locking the position of the partition it concerns and raising that row's
// `rules_version` in the same transaction. The aggregator classifies a batch by
// the rules it has read and commits it only if that version is still the same;
// otherwise it reads the rules again and classifies anew. So the first batch
// after a change sees all of it, no batch before sees any of it, and a change
// waits no longer than one batch's transaction takes.
//
// Everything else that locks a position and changes events or counters (a
// replay, a close, a repair) must raise `rules_version` too: a batch that waited
// for the lock has a snapshot from before it waited.
//
// A closed period is never touched. A period that has ended keeps the plan,
// limits and prices that were in force at its end (they are frozen by the
// rollover); everything else acts on the whole running period.
package billing

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"odometer"
)

// ErrRefused marks a change that the rules do not allow; its text says which rule
// and what to do instead. Nothing was changed.
var ErrRefused = errors.New("refused")

// querier is a pool or a transaction.
type querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Partitions is how many partitions the stream was created with; 0 before any
// aggregator has read it.
func Partitions(ctx context.Context, q querier) (n int, err error) {
	err = q.QueryRow(ctx, `select count(*) from stream_positions`).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count partitions: %w", err)
	}
	return n, nil
}

const lockPartitionSQL = `
update stream_positions
set rules_version = rules_version + 1
where partition = $1`

// Lock locks the partitions of the tenants, in order, and raises their rules
// version: no batch that was classified before commits after it. Before the
// stream's first reader has made the rows, it blocks that reader instead.
func Lock(ctx context.Context, tx pgx.Tx, tenants ...uuid.UUID) error {
	n, err := Partitions(ctx, tx)
	if err != nil {
		return err
	}
	if n == 0 {
		return LockAll(ctx, tx)
	}
	var partitions []int
	for _, t := range tenants {
		partitions = append(partitions, odometer.PartitionOf(t, n))
	}
	slices.Sort(partitions)
	for _, p := range slices.Compact(partitions) {
		if _, err := tx.Exec(ctx, lockPartitionSQL, p); err != nil {
			return fmt.Errorf("lock partition %d: %w", p, err)
		}
	}
	return nil
}

// A lock on the table, not on its rows: it also waits for and blocks a reader
// that is about to make them.
const lockTableSQL = `
lock table stream_positions in share row exclusive mode`

const raiseAllSQL = `
update stream_positions
set rules_version = rules_version + 1`

// LockAll locks every partition and raises its rules version.
func LockAll(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, lockTableSQL); err != nil {
		return fmt.Errorf("lock all partitions: %w", err)
	}
	if _, err := tx.Exec(ctx, raiseAllSQL); err != nil {
		return fmt.Errorf("raise the rules version of all partitions: %w", err)
	}
	return nil
}

// ErrNoSubscription means that a tenant has none.
var ErrNoSubscription = errors.New("no subscription")

// Tenant is what one tenant's events are classified by.
type Tenant struct {
	Subscription odometer.Subscription
	Periods      []odometer.Period // in order
}

// Due reports whether a period that contains t would follow the last one by itself.
func (t *Tenant) Due(at time.Time) bool {
	if len(t.Periods) == 0 {
		return false
	}
	return len(t.Subscription.Roll(t.Periods[len(t.Periods)-1].End, at)) > 0
}

// LoadTenants reads subscriptions and the periods that end after since, and the
// last one in any case: it is what the next would follow. A tenant without a
// subscription is missing from the result.
func LoadTenants(ctx context.Context, q querier, tenants []uuid.UUID, since time.Time) (map[uuid.UUID]*Tenant, error) {
	found := make(map[uuid.UUID]*Tenant, len(tenants))
	if err := loadSubscriptions(ctx, q, tenants, found); err != nil {
		return nil, err
	}
	if err := loadPeriods(ctx, q, tenants, since, found); err != nil {
		return nil, err
	}
	return found, nil
}

const loadSubscriptionsSQL = `
select
    tenant_id,
    coalesce(plan_id, ''),
    status,
    period_interval,
    anchor,
    trial_ends_at,
    coalesce(stripe_customer, ''),
    coalesce(stripe_subscription, '')
from subscriptions
where tenant_id = any($1)`

func loadSubscriptions(ctx context.Context, q querier, tenants []uuid.UUID, into map[uuid.UUID]*Tenant) error {
	rows, _ := q.Query(ctx, loadSubscriptionsSQL, tenants)
	var s odometer.Subscription
	_, err := pgx.ForEachRow(rows, []any{
		&s.Tenant, &s.PlanID, &s.Status, &s.Interval, &s.Anchor, &s.TrialEndsAt, &s.StripeCustomer, &s.StripeSubscription,
	}, func() error {
		into[s.Tenant] = &Tenant{Subscription: s}
		s.TrialEndsAt = nil
		return nil
	})
	if err != nil {
		return fmt.Errorf("load %d subscriptions: %w", len(tenants), err)
	}
	return nil
}

const loadPeriodsSQL = `
select
    tenant_id,
    period_start,
    period_end,
    coalesce(plan_id, ''),
    trial,
    coalesce(closed_epoch, 0),
    coalesce(closed_seq, -1)
from billing_periods p
where tenant_id = any($1)
  and (
      period_end > $2
      or period_start = (select max(l.period_start) from billing_periods l where l.tenant_id = p.tenant_id)
  )
order by tenant_id, period_start`

func loadPeriods(ctx context.Context, q querier, tenants []uuid.UUID, since time.Time, into map[uuid.UUID]*Tenant) error {
	rows, _ := q.Query(ctx, loadPeriodsSQL, tenants, since)
	var id uuid.UUID
	var p odometer.Period
	var closed odometer.Position
	_, err := pgx.ForEachRow(rows, []any{
		&id, &p.Start, &p.End, &p.PlanID, &p.Trial, &closed.Epoch, &closed.Seq,
	}, func() error {
		period := p
		if closed.Seq >= 0 {
			at := closed
			period.ClosedAt = &at
		}
		if t := into[id]; t != nil {
			t.Periods = append(t.Periods, period)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("load periods of %d tenants: %w", len(tenants), err)
	}
	return nil
}

// Load reads one tenant with all its periods, or ErrNoSubscription.
func Load(ctx context.Context, q querier, tenant uuid.UUID) (*Tenant, error) {
	found, err := LoadTenants(ctx, q, []uuid.UUID{tenant}, time.Time{})
	if err != nil {
		return nil, err
	}
	if found[tenant] == nil {
		return nil, fmt.Errorf("tenant %s: %w", tenant, ErrNoSubscription)
	}
	return found[tenant], nil
}
