package query

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// lookbacks are how far a page looks back from where it begins, each further
// than the one before, until it is full or the list is at its end. Events have
// no index by time: one costs a quarter of the rate at which they are counted.
// Those of a short and recent span are found by when they were stored, those of
// a long one by going through most of what the tenant has. For a tenant with
// 300,000 of 3 million events an hour takes 29 ms, a day 39 ms and 31 days 310
// ms; for one with 3,000 they take 0.4, 0.7 and 10 ms.
var lookbacks = []time.Duration{time.Hour, 24 * time.Hour, MaxEventsSpan}

// fill reads the page and where the next one begins.
func (p *Events) fill(ctx context.Context, tx pgx.Tx, l *list, limit int) error {
	top := l.to
	if l.after != nil {
		top = l.after.at.Add(time.Microsecond)
	}
	more := limit + 1 // tells whether there is another page
	for _, lookback := range lookbacks {
		from := top.Add(-lookback)
		if from.Before(l.from) {
			from = l.from
		}
		found, err := l.read(ctx, tx, from, &more)
		if err != nil {
			return err
		}
		p.Events = found
		if len(found) == more || from.Equal(l.from) {
			break
		}
	}
	if len(p.Events) == more {
		p.Events = p.Events[:limit]
		p.NextCursor = l.cursor(&p.Events[limit-1])
	}
	return nil
}

// Which part of the table holds a span of time is known by when events were
// stored alone: none occurs more than 5 minutes after that.
const eventsSQL = `
select
    event_id,
    agent,
    kind,
    action_type,
    resource_id,
    quantity,
    idempotency_key,
    coalesce(metadata::text, '') as metadata,
    occurred_at,
    recorded_at,
    period_start,
    occurred_at < period_start as late
from usage_events
where tenant_id = $1
  and recorded_at >= $2::timestamptz - interval '5 minutes'
  and occurred_at >= $2
  and occurred_at < $3
  and ($4 = '' or agent = $4)
  and ($5 = '' or action_type = $5)
  and ($6::timestamptz is null or (occurred_at, event_id) < ($6, $7))
order by occurred_at desc, event_id desc
limit $8`

// read reads the list's next events that occurred at from or later, all if
// limit is nil.
func (l *list) read(ctx context.Context, tx pgx.Tx, from time.Time, limit *int) ([]Event, error) {
	rows, _ := tx.Query(ctx, eventsSQL, l.args(from, limit)...)
	events, err := collectEvents(rows)
	return events, wrap(err, "events of tenant %s", l.tenant)
}

// args are what eventsSQL is asked with.
func (l *list) args(from time.Time, limit *int) []any {
	args := []any{l.tenant, from, l.to, l.agent, l.action, nil, nil, limit}
	if l.after != nil {
		args[5], args[6] = l.after.at, l.after.id
	}
	return args
}

func collectEvents(rows pgx.Rows) ([]Event, error) {
	events, err := pgx.CollectRows(rows, pgx.RowToStructByName[Event])
	for i := range events {
		e := &events[i]
		e.OccurredAt, e.RecordedAt, e.PeriodStart = e.OccurredAt.UTC(), e.RecordedAt.UTC(), e.PeriodStart.UTC()
	}
	return events, err
}
