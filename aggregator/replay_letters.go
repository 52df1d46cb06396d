package aggregator

import (
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"odometer"
)

// Only letters of messages that the stream still holds: the events of older
// ones may have left the books by age. A replay from a place takes all that was
// retried behind it, too: another one may have ended before it came there.
const retriedSQL = `
select d.stream_epoch, d.stream_seq, d.tenant_id
from dead_letters d
where d.state = 'retried'
  and d.tenant_id is not null
  and ($1::uuid is null or d.tenant_id = $1)
  and d.received_at >= $2
  and ($3::timestamptz is null or d.received_at >= $3 or d.decided_at >= $3)
  and (d.stream_seq >= $4 or d.retry_seq >= $4)
order by d.stream_epoch, d.stream_seq`

// openLanes prepares each partition.
func (r *replay) openLanes(ctx context.Context) error {
	for p := range r.at.partitions {
		r.lanes = append(r.lanes, &lane{worker: r.a.newWorker(p, r.at), begin: r.at.places[p].Position})
	}
	since := r.Since
	if r.From > 0 {
		since = nil
	}
	rows, _ := r.Pool.Query(ctx, retriedSQL, r.Tenant, r.at.firstTime, since, r.From)
	var at odometer.Position
	var tenant uuid.UUID
	_, err := pgx.ForEachRow(rows, []any{&at.Epoch, &at.Seq, &tenant}, func() error {
		l := r.lanes[odometer.PartitionOf(tenant, r.at.partitions)]
		l.retried = append(l.retried, at)
		return nil
	})
	if err != nil {
		return fmt.Errorf("find retried dead letters: %w", err)
	}
	return nil
}

const lettersAtSQL = `
select ` + letterColumns + `
from dead_letters d
join unnest($1::integer[], $2::bigint[]) as l (stream_epoch, stream_seq) using (stream_epoch, stream_seq)
order by d.stream_epoch, d.stream_seq`

// restoreLetters restores the events of retried letters. They come before all
// that is read: a key that one of them has was free until its retry, so no
// message with that key ever counted, wherever it lies in the stream.
func (r *replay) restoreLetters(ctx context.Context, l *lane) error {
	for some := range slices.Chunk(l.retried, lettersAtOnce) {
		if err := ctx.Err(); err != nil {
			return err
		}
		var epochs []int32
		var seqs []int64
		for _, at := range some {
			epochs, seqs = append(epochs, at.Epoch), append(seqs, at.Seq)
		}
		rows, _ := r.Pool.Query(ctx, lettersAtSQL, epochs, seqs)
		letters, err := collectLetters(rows)
		if err != nil {
			return err
		}
		items := make([]item, 0, len(letters))
		for i := range letters {
			it, _ := letters[i].item(r.at.partitions)
			items = append(items, it)
		}
		if err := r.apply(ctx, l, items, true); err != nil {
			return err
		}
	}
	return nil
}

// strangers are the messages that are no dead letters.
func (r *replay) strangers(ctx context.Context, items []item) ([]item, error) {
	first, last := items[0].event.Position, items[len(items)-1].event.Position
	dead := map[odometer.Position]bool{}
	rows, _ := r.Pool.Query(ctx, knownDeadSQL, first.Epoch, first.Seq, last.Epoch, last.Seq)
	var at odometer.Position
	if _, err := pgx.ForEachRow(rows, []any{&at.Epoch, &at.Seq, nil, nil}, func() error { dead[at] = true; return nil }); err != nil {
		return nil, fmt.Errorf("look for dead letters: %w", err)
	}
	if len(dead) == 0 {
		return items, nil
	}
	rest := make([]item, 0, len(items))
	for _, i := range items {
		if !dead[i.event.Position] {
			rest = append(rest, i)
		}
	}
	return rest, nil
}
