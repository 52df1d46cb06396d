package aggregator

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"odometer"
)

const lastDeadSQL = `
select stream_epoch, stream_seq
from dead_letters
order by stream_epoch desc, stream_seq desc
limit 1`

// loadLastDead is the last position of which a message became a dead letter;
// zero for none. Behind it nothing was judged to be one before.
func loadLastDead(ctx context.Context, q querier) (last odometer.Position, err error) {
	rows, _ := q.Query(ctx, lastDeadSQL)
	_, err = pgx.ForEachRow(rows, []any{&last.Epoch, &last.Seq}, func() error { return nil })
	if err != nil {
		return last, fmt.Errorf("find the last dead letter: %w", err)
	}
	return last, nil
}

const knownDeadSQL = `
select stream_epoch, stream_seq, reason, detail
from dead_letters
where (stream_epoch, stream_seq) >= ($1, $2)
  and (stream_epoch, stream_seq) <= ($3, $4)`

// recall gives messages that are dead letters already the judgement they got:
// who reads a stream again must not come to another one because the balance or
// the periods have changed since.
func (w *worker) recall(ctx context.Context, b *batch) error {
	first, last := b.items[0].event.Position, b.items[len(b.items)-1].event.Position
	if first.After(w.lastDead) {
		return nil
	}
	judged := map[odometer.Position]*odometer.Rejection{}
	rows, _ := w.a.Pool.Query(ctx, knownDeadSQL, first.Epoch, first.Seq, last.Epoch, last.Seq)
	var at odometer.Position
	var r odometer.Rejection
	_, err := pgx.ForEachRow(rows, []any{&at.Epoch, &at.Seq, &r.Reason, &r.Detail}, func() error {
		known := r
		judged[at] = &known
		return nil
	})
	if err != nil {
		return fmt.Errorf("recall dead letters of partition %d: %w", w.partition, err)
	}
	for i := range b.items {
		if known := judged[b.items[i].event.Position]; known != nil {
			b.items[i].reject = known
		}
	}
	return nil
}
