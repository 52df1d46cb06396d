package aggregator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"odometer"
	"odometer/aggregator/apply"
	"odometer/aggregator/position"
)

// commitTimeout bounds one batch's transaction, waits for locks included.
const commitTimeout = time.Minute

// commitAll commits the batches that collect hands over. A batch that has begun
// is finished also when ctx ends meanwhile.
func (w *worker) commitAll(ctx context.Context) error {
	for b := range w.ready {
		if err := w.waitForReplay(ctx, b); err != nil || ctx.Err() != nil {
			return err
		}
		finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
		err := w.commit(finish, b)
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

// replayPause is the time between two checks whether a replay has ended.
const replayPause = 100 * time.Millisecond

// waitForReplay waits with a correction for as long as a replay restores events
// of the partition: a balance that is not rebuilt yet would refuse what was
// right, or accept what was wrong. What comes after the correction waits, too.
func (w *worker) waitForReplay(ctx context.Context, b *batch) error {
	if len(b.items) == 0 || !b.items[0].Correction() {
		return nil
	}
	for logged := false; ctx.Err() == nil; logged = true {
		held, err := apply.CorrectionsHeld(ctx, w.a.Pool)
		if err != nil || !slices.Contains(held, w.partition) {
			return err
		}
		if !logged {
			w.a.Log.Info("a correction waits for the replay of its partition", "partition", w.partition, "seq", b.items[0].Event.Position.Seq)
		}
		_ = odometer.Sleep(ctx, replayPause) // an error means that ctx has ended
	}
	return nil
}

// commit brings a batch, and with it the position, into Postgres.
func (w *worker) commit(ctx context.Context, b *batch) error {
	if len(b.items) == 0 {
		err := position.Advance(ctx, w.a.Pool, w.partition, w.at, b.Mark)
		if err == nil {
			w.moved(b.Seq)
		}
		return err
	}
	began := time.Now()
	if err := w.recallDeadLetters(ctx, b); err != nil {
		return err
	}
	return w.applier.Apply(ctx, b.items, func(ctx context.Context, part *apply.Batch) error {
		to := b.markThrough(part.Items)
		err := w.transaction(ctx, part, to)
		switch {
		case errors.Is(err, apply.ErrRulesChanged):
			return cmp.Or(w.checkPosition(ctx), err)
		case err != nil:
			return err
		}
		w.moved(to.Seq)
		w.repeating = 2*part.Duplicates > len(part.Items)
		w.report(part, time.Since(began))
		began = time.Now()
		return nil
	})
}

// markThrough is how far the stream is read with some of the batch's items.
func (b *batch) markThrough(items []apply.Item) position.Mark {
	last := &items[len(items)-1]
	if last == &b.items[len(b.items)-1] {
		return b.Mark
	}
	return markAt(last)
}

func (w *worker) moved(seq int64) {
	w.at.Seq = seq
	w.committed.Store(seq)
}

// recallDeadLetters gives messages that are dead letters already the rejection
// that they got: reading a stream again must not lead to another one because
// the balance or the periods have changed since.
func (w *worker) recallDeadLetters(ctx context.Context, b *batch) error {
	if b.items[0].Event.Position.After(w.lastDead) {
		return nil
	}
	known, err := w.applier.KnownDeadLetters(ctx, b.items)
	if err != nil {
		return err
	}
	for n := range b.items {
		if rejection := known[b.items[n].Event.Position]; rejection != nil {
			b.items[n].Reject = rejection
		}
	}
	return nil
}

// transaction is the one way by which messages that are read become counted. It
// moves the position from where this reader stands, and with it everything that
// the batch says. An error of the last step may leave the outcome unknown; the
// position will say.
func (w *worker) transaction(ctx context.Context, b *apply.Batch, to position.Mark) error {
	pooled, err := w.a.Pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connect to count: %w", err)
	}
	defer pooled.Release() // closes a connection that is still inside a transaction, which undoes it
	conn := pooled.Conn()
	if w.repeating {
		if err := w.applier.DropKnownDuplicates(ctx, conn, b); err != nil {
			return err
		}
	}
	var begin pgx.Batch
	begin.Queue("begin")
	err = w.applier.Insert(ctx, conn, &begin, b, apply.Advance{
		From: w.at, To: to.Seq, RulesVersion: b.RulesVersion,
		StoredAt: position.NullTime(to.StoredAt), CompleteUntil: position.NullTime(to.CompleteUntil()),
	})
	if err != nil {
		_, _ = conn.Exec(ctx, "rollback") // saves the connection if it can be saved
		return err
	}
	return w.finish(ctx, conn, b, to)
}

const insertBatchSQL = `
insert into batches (
    partition, stream_epoch, from_seq, to_seq, last_stored_at, messages, events, duplicates, dead, units
)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`

// finish records what became of each message and commits, in one round trip.
func (w *worker) finish(ctx context.Context, conn *pgx.Conn, b *apply.Batch, to position.Mark) error {
	var steps pgx.Batch
	apply.QueueDeadLetters(&steps, b.Dead)
	steps.Queue(insertBatchSQL, w.partition, w.at.Epoch, w.at.Seq+1, to.Seq, position.NullTime(to.StoredAt),
		len(b.Items), len(b.Inserted), b.Duplicates, len(b.Dead), b.Units())
	steps.Queue("commit")
	answers := conn.SendBatch(ctx, &steps)
	defer func() { _ = answers.Close() }() // for the returns with an error
	for range steps.Len() {
		if _, err := answers.Exec(); err != nil {
			return fmt.Errorf("commit partition %d through %d: %w", w.partition, to.Seq, err)
		}
	}
	return nil
}

// checkPosition finds out whether another reader moved the position, or only the
// rules have changed.
func (w *worker) checkPosition(ctx context.Context) error {
	at, err := position.Of(ctx, w.a.Pool, w.partition)
	if err == nil && at != w.at {
		err = fmt.Errorf("count partition %d from %d: %w", w.partition, w.at.Seq, position.ErrMoved)
	}
	return err
}
