package audit

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// stretchBlocks is how many blocks of usage_events a stretch has: about 5,000
// rows.
const stretchBlocks = 128

// stretch is a run of blocks of usage_events and the sequences of the stream
// that lie in it.
type stretch struct {
	Block     int64
	Low, High int64
	Rows      int64
}

// layout is where in the table the sequences lie.
type layout struct {
	stretches []stretch
	older     int64 // events from before the stream's first message
}

// One pass over the table. What lies outside of the span that is compared does
// not widen a stretch.
const layoutSQL = `
select s.block, coalesce(x.low, 0), coalesce(x.high, -1), x.rows, x.older
from generate_series(
    0,
    pg_relation_size('usage_events') / current_setting('block_size')::bigint,
    $1::bigint
) as s (block)
cross join lateral (
    select
        min(stream_seq) filter (where stream_seq between $2 and $3) as low,
        max(stream_seq) filter (where stream_seq between $2 and $3) as high,
        count(*) as rows,
        count(*) filter (where stream_seq < $2) as older
    from usage_events
    where ctid >= format('(%s,0)', s.block)::tid
      and ctid < format('(%s,0)', s.block + $1::bigint)::tid
) x`

func loadLayout(ctx context.Context, pool *pgxpool.Pool, from, to int64) (*layout, error) {
	var l layout
	var s stretch
	var older int64
	rows, _ := pool.Query(ctx, layoutSQL, stretchBlocks, from, to)
	_, err := pgx.ForEachRow(rows, []any{&s.Block, &s.Low, &s.High, &s.Rows, &older}, func() error {
		l.older += older
		if s.Low <= s.High {
			l.stretches = append(l.stretches, s)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look where events lie: %w", err)
	}
	return &l, nil
}

// window is the blocks that hold sequences of a span, as pairs of places; not
// ok when reading them would cost more than asking for n keys.
func (l *layout) window(from, to int64, n int) (begin, end []string, ok bool) {
	const tooMany = 8 // rows read for each that is wanted
	var rows int64
	last := int64(-1)
	for _, s := range l.stretches {
		if s.High < from || s.Low > to {
			continue
		}
		rows += s.Rows
		next := fmt.Sprintf("(%d,0)", s.Block+stretchBlocks)
		if s.Block == last {
			end[len(end)-1] = next
		} else {
			begin, end = append(begin, fmt.Sprintf("(%d,0)", s.Block)), append(end, next)
		}
		last = s.Block + stretchBlocks
	}
	return begin, end, rows <= tooMany*int64(n)+20_000
}
