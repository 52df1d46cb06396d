package admin

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Totals are the outcomes of all messages that were ever read.
type Totals struct {
	Messages    int64 `json:"messages" doc:"Read from the stream; messages read again after a lost tail included."`
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

// batchTotals adds up the batches. There may be very many, so each sum continues
// from the last one. A batch gets its number before it commits, so a batch with a
// lower number may appear later. All numbers up to one are final when every
// transaction has ended that was running when that number was read: a batch's
// transaction writes its position before it takes a number, so it is visible as
// running.
type batchTotals struct {
	base    Totals // of all batches through this number
	through int64
	final   int64 // no batch up to this number can still commit

	seen int64 // the newest batch at some time; final when what was running then has ended
	next int64 // the first transaction that had not begun then; 0: waiting for none
}

// step is the sum over the next batches after through.
type step struct {
	Totals
	Final   Totals // of it, what is final
	newest  int64  // batch of all
	running int64  // the oldest transaction that has not ended
	next    int64  // the first that has not begun
}

const (
	batchesAtOnce = 1_000_000
	sumTimeout    = time.Second
)

// sum adds up all batches. It returns nil when that takes longer than sumTimeout;
// the next call continues. It is for one caller at a time.
func (t *batchTotals) sum(ctx context.Context, pool *pgxpool.Pool, atOnce int64) (*Totals, error) {
	for began := time.Now(); time.Since(began) < sumTimeout; {
		before := *t
		s, err := t.step(ctx, pool, atOnce)
		if err != nil {
			return nil, err
		}
		if s.newest < t.through { // another database: it was restored
			*t = batchTotals{}
			continue
		}
		all := t.base
		all.add(s.Totals)
		t.base.add(s.Final)
		t.through = max(t.through, min(t.final, t.through+atOnce))
		if t.next > 0 && s.running >= t.next {
			t.final, t.next = t.seen, 0
		}
		if t.next == 0 {
			t.seen, t.next = s.newest, s.next
		}
		switch {
		case s.newest <= before.through+atOnce:
			return &all, nil
		case *t == before: // a long transaction is still running
			return nil, nil
		}
	}
	return nil, nil
}

const stepSQL = `
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
where batch_id > $1
  and batch_id <= $1 + $3`

func (t *batchTotals) step(ctx context.Context, pool *pgxpool.Pool, atOnce int64) (s step, err error) {
	rows, _ := pool.Query(ctx, stepSQL, planned, t.through, t.final, atOnce)
	s, err = pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (s step, err error) {
		err = row.Scan(
			&s.Messages, &s.Events, &s.Duplicates, &s.DeadLetters,
			&s.Final.Messages, &s.Final.Events, &s.Final.Duplicates, &s.Final.DeadLetters,
			&s.newest, &s.running, &s.next)
		return s, err
	})
	if err != nil {
		return s, fmt.Errorf("add up the batches: %w", err)
	}
	return s, nil
}
