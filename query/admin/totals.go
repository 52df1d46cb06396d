package admin

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Totals are what became of all messages that were read, since the first.
type Totals struct {
	Messages    int64 `json:"messages" doc:"Read from the stream, repeats after a lost tail included."`
	Events      int64 `json:"events" doc:"Counted."`
	Duplicates  int64 `json:"duplicates" doc:"Repeats of an event that counts; counted nowhere."`
	DeadLetters int64 `json:"dead_letters" doc:"Kept as dead letters when they were read; a retry may have counted some since."`
}

func (t *Totals) add(o Totals) {
	t.Messages += o.Messages
	t.Events += o.Events
	t.Duplicates += o.Duplicates
	t.DeadLetters += o.DeadLetters
}

// tally adds up the batches. There may be millions of them, so it goes on from
// where it was and looks at new ones only. A batch gets its number before it is
// committed: one that is seen may be followed by one with a lower number. What
// is below a number is final when every transaction has ended that was under
// way when the number was seen; a batch's has written its position before it
// takes a number, so it is known to be under way.
type tally struct {
	base    Totals // of all batches through this number
	through int64

	seen int64 // the newest batch of an earlier look
	next int64 // and the first transaction that had not begun then; 0: there was no look
}

// sinceRow is a look at the batches beyond through.
type sinceRow struct {
	Totals
	Settled Totals // of them, those through seen
	newest  int64
	running int64 // the oldest transaction that has not ended
	next    int64 // the first that has not begun
}

const batchesSinceSQL = `
select
    coalesce(sum(messages), 0)::bigint,
    coalesce(sum(events), 0)::bigint,
    coalesce(sum(duplicates), 0)::bigint,
    coalesce(sum(dead), 0)::bigint,
    coalesce(sum(messages) filter (where batch_id <= $2), 0)::bigint,
    coalesce(sum(events) filter (where batch_id <= $2), 0)::bigint,
    coalesce(sum(duplicates) filter (where batch_id <= $2), 0)::bigint,
    coalesce(sum(dead) filter (where batch_id <= $2), 0)::bigint,
    (select coalesce(max(batch_id), 0) from batches),
    pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
    pg_snapshot_xmax(pg_current_snapshot())::text::bigint
from batches
where batch_id > $1`

// look adds up all batches. It is for one caller at a time.
func (t *tally) look(ctx context.Context, pool *pgxpool.Pool) (Totals, error) {
	r, err := t.since(ctx, pool)
	if err != nil {
		return Totals{}, err
	}
	if r.newest < t.through { // another database: it was restored
		*t = tally{}
		if r, err = t.since(ctx, pool); err != nil {
			return Totals{}, err
		}
	}
	all := t.base
	all.add(r.Totals)
	if t.next > 0 && r.running >= t.next {
		t.base.add(r.Settled)
		t.through, t.next = t.seen, 0
	}
	if t.next == 0 {
		t.seen, t.next = r.newest, r.next
	}
	return all, nil
}

func (t *tally) since(ctx context.Context, pool *pgxpool.Pool) (r sinceRow, err error) {
	rows, _ := pool.Query(ctx, batchesSinceSQL, t.through, t.seen)
	r, err = pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (r sinceRow, err error) {
		err = row.Scan(
			&r.Messages, &r.Events, &r.Duplicates, &r.DeadLetters,
			&r.Settled.Messages, &r.Settled.Events, &r.Settled.Duplicates, &r.Settled.DeadLetters,
			&r.newest, &r.running, &r.next)
		return r, err
	})
	if err != nil {
		return r, fmt.Errorf("add up the batches: %w", err)
	}
	return r, nil
}
