// Package apply turns messages of the stream into events, duplicates and dead
// letters. Everything that happens to a message happens here, for whoever
// brings it: the live reader (package aggregator), a replay (aggregator/replay)
// or the retry of a dead letter (aggregator/deadletter).
//
// An Applier works on batches of messages of one partition:
//
//	Decode      validates the payload on its own                       (classify.go)
//	Apply       classifies a batch and has it written, until it commits (apply.go)
//	classify    checks catalogue and age, finds the billing period      (classify.go)
//	Insert      inserts the events whose keys are new, counts them      (insert.go, columns.go)
//	            and compares the others with the owners of their keys   (conflicts.go)
//	dead letters keep what cannot be an event                           (deadletters.go)
//
// # What holds
//
// A message becomes an event, a duplicate of one, or a dead letter with a
// reason. Which of them depends on the message, its position and the rules in
// force (catalogue, subscriptions, periods), never on this process's clock. A
// transaction that counts holds the row lock of its partition's position and
// compares the rules version with the one that its batch was classified by; when
// the rules have changed, nothing is written and the batch is classified again.
//
// A message that Postgres refuses, for a reason that no rule foresaw, becomes a
// dead letter; the other messages of its batch count.
package apply

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
)

// Applier applies messages of one partition. Its methods are for one goroutine.
type Applier struct {
	Pool      *pgxpool.Pool
	Partition int
	Since     time.Time        // no message can have occurred before: periods that ended before are not loaded
	Now       func() time.Time // for creating the periods that time has begun
	DryRun    bool             // creates no periods

	rules rules
}

var (
	// ErrRulesChanged says that the rules are not those that a batch was
	// classified by, or that the position is not where the writer believes.
	ErrRulesChanged = errors.New("the rules have changed")

	// ErrSplit asks Apply to write the two halves of a batch one by one.
	ErrSplit = errors.New("the batch must be split")
)

// Apply classifies messages and has them written, in one transaction or, when
// write fails with ErrSplit or Postgres refuses the content, in halves. A single
// message that Postgres refuses becomes a dead letter. When write fails with
// ErrRulesChanged the messages are classified again.
func (a *Applier) Apply(ctx context.Context, items []Item, write func(context.Context, *Batch) error) error {
	refusedBefore := false
	for {
		b, err := a.classify(ctx, items)
		if err != nil {
			return err
		}
		err = write(ctx, b)
		refusal, refused := refusalIn(err)
		switch {
		case err == nil:
			a.rules.trim()
			return nil
		case errors.Is(err, ErrRulesChanged):
			a.rules.forget()
			if refusedBefore { // by the new rules it may be fine
				items[0].Reject, refusedBefore = nil, false
			}
		case len(items) > 1 && (refused || errors.Is(err, ErrSplit)):
			middle := len(items) / 2
			if err := a.Apply(ctx, items[:middle], write); err != nil {
				return err
			}
			items, refusedBefore = items[middle:], false
		case refused && items[0].Reject == nil:
			if items[0].Reject, err = a.reject(ctx, &items[0], refusal); err != nil {
				return err
			}
			refusedBefore = true
		default:
			return err
		}
	}
}

// refusalIn reports whether Postgres refused the content of a batch (SQLSTATE
// class 22 or 23): trying again cannot help, finding the message can. A counter
// that somebody else inserted at the same time is no fault of a message.
func refusalIn(err error) (*pgconn.PgError, bool) {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return nil, false
	}
	content := strings.HasPrefix(pg.Code, "22") || strings.HasPrefix(pg.Code, "23")
	return pg, content && pg.ConstraintName != "usage_counters_pkey"
}

const balanceSQL = `
select c.count
from usage_counters c
where c.tenant_id = $1
  and c.agent = $2
  and c.period_start = $3`

// reject says why a message that Postgres refuses is a dead letter. For a
// correction below zero that is the balance.
func (a *Applier) reject(ctx context.Context, i *Item, refusal *pgconn.PgError) (*odometer.Rejection, error) {
	if refusal.ConstraintName != "usage_counters_not_negative" {
		return &odometer.Rejection{Reason: odometer.Malformed, Detail: "the database refuses it: " + refusal.Message}, nil
	}
	var balance int64
	rows, _ := a.Pool.Query(ctx, balanceSQL, i.Event.Tenant, i.Event.Agent, i.Period)
	if _, err := pgx.ForEachRow(rows, []any{&balance}, func() error { return nil }); err != nil {
		return nil, fmt.Errorf("read the balance of %s/%s: %w", i.Event.Tenant, i.Event.Agent, err)
	}
	return BelowZero(i, balance), nil
}

// BelowZero rejects a correction that would bring a balance below zero.
func BelowZero(i *Item, balance int64) *odometer.Rejection {
	return &odometer.Rejection{Reason: odometer.NegativeBalance, Detail: fmt.Sprintf(
		"quantity %d would bring the balance of %d in the period from %s below zero",
		i.Event.Quantity, balance, i.Period.Format(time.RFC3339))}
}

const lockSQL = `
update stream_positions
set rules_version = rules_version + 1
where partition = $1
  and rules_version = $2
returning stream_epoch, seq, stored_at, rules_version`

// WithLock runs do in a transaction that holds the partition's lock. The
// position stays where it is (stay says so to Insert), but the rules version
// rises: a live batch that waited for the lock was classified by the tables as
// they were before, so it must be classified again.
func (a *Applier) WithLock(ctx context.Context, conn *pgx.Conn, b *Batch, do func(tx pgx.Tx, stay Advance) error) error {
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		var stay Advance
		err := tx.QueryRow(ctx, lockSQL, a.Partition, b.RulesVersion).Scan(&stay.From.Epoch, &stay.From.Seq, &stay.StoredAt, &stay.RulesVersion)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return ErrRulesChanged
		case err != nil:
			return fmt.Errorf("lock partition %d: %w", a.Partition, err)
		}
		stay.To, stay.CompleteUntil = stay.From.Seq, stay.StoredAt
		return do(tx, stay)
	})
	if err == nil {
		a.rules.version = b.RulesVersion + 1 // the lock allows nobody else to raise it
	}
	return err
}
