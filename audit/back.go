package audit

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// lookBack finds events without a message in the chunks that were compared by
// key. It counts first: only where the table holds more than the messages
// accounted for does it look which.
func (m *matcher) lookBack(ctx context.Context) error {
	if len(m.byKey) == 0 {
		return nil
	}
	m.step("events without a message")
	slices.SortFunc(m.byKey, func(a, b span) int { return int(a.from - b.from) })
	counts, err := countSpans(ctx, m.Pool, m.byKey, m.Tenant)
	if err != nil {
		return err
	}
	for i, s := range m.byKey {
		if counts[i] == s.events {
			continue
		}
		err := m.read(ctx, s.from, s.to, time.Time{}, func(c *chunk) error {
			c.strays = true
			return m.compare(ctx, c)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

const countSpansSQL = `
select width_bucket(stream_seq, $1::bigint[]) - 1, count(*)
from usage_events
where stream_seq between $2 and $3
  and ($4::uuid is null or tenant_id = $4)
  and stream_seq <= ($5::bigint[])[width_bucket(stream_seq, $1::bigint[])]
group by 1`

// countSpans counts the events of each span, in one pass.
func countSpans(ctx context.Context, pool *pgxpool.Pool, spans []span, tenant *uuid.UUID) (map[int]int64, error) {
	var from, to []int64
	for _, s := range spans {
		from, to = append(from, s.from), append(to, s.to)
	}
	counts := map[int]int64{}
	var i int
	var n int64
	rows, _ := pool.Query(ctx, countSpansSQL, from, from[0], to[len(to)-1], tenant, to)
	_, err := pgx.ForEachRow(rows, []any{&i, &n}, func() error {
		counts[i] = n
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("count the events of %d spans: %w", len(spans), err)
	}
	return counts, nil
}
