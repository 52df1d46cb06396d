// Package billing keeps what counting and billing go by: the catalogue, each
// tenant's subscription, and the billing periods that follow from it.
//
// What a message counts as depends on these rules, so they must not change
// under a batch that is being counted. Every change here therefore begins by
// locking the position of the partition it concerns and raising that row's
// `rules_version` in the same transaction. The aggregator classifies a batch by
// the rules it has read and commits it only if that version is still the same;
// otherwise it reads the rules again and classifies anew. So a change is seen whole by the
// first batch after it and by none before it, and a change waits for a batch
// no longer than that batch's own transaction takes.
//
// Whoever else locks a position and changes events or counters (a replay, a
// close, a repair) must raise `rules_version` too: a batch that waited for the lock sees
// the books as they were before it waited.
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

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"odometer"
)

// ErrRefused marks a change that the rules do not allow; its text says which
// and what to do instead. Nothing was changed.
var ErrRefused = errors.New("refused")

// querier is a pool or a transaction.
type querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Partitions tells how many partitions the stream was created with; 0 before
// any aggregator has seen it.
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

// Lock locks the partitions of the tenants, in order, and raises their terms:
// no batch that was judged before commits after it. Before the stream's first reader has made the rows, it holds that
// reader off instead.
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

// A lock on the table, not on its rows: it also waits for and holds off a
// reader that is about to make them.
const lockTableSQL = `
lock table stream_positions in share row exclusive mode`

const raiseAllSQL = `
update stream_positions
set rules_version = rules_version + 1`

// LockAll locks every partition and raises its terms.
func LockAll(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, lockTableSQL); err != nil {
		return fmt.Errorf("lock all partitions: %w", err)
	}
	if _, err := tx.Exec(ctx, raiseAllSQL); err != nil {
		return fmt.Errorf("raise terms of all partitions: %w", err)
	}
	return nil
}
