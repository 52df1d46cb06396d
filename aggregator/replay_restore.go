package aggregator

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// restore is the transaction of a replay. The partition's position stays where
// it is; its terms rise, so that a reader's batch that waited for the lock is
// judged again.
func (r *replay) restore(ctx context.Context, conn *pgx.Conn, l *lane, j *judged, t *tally, alone bool) error {
	byBalance, err := r.recallFates(ctx, conn, l, j, t)
	if err != nil {
		return err
	}
	if len(byBalance) > 0 {
		if !alone {
			return errAlone
		}
		if err := weigh(ctx, conn, byBalance[0]); err != nil {
			return err
		}
	}
	if err := r.hold.take(ctx, r.Pool, l.partition); err != nil {
		return err
	}
	var learned []counterSum
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		p, err := lockPlace(ctx, tx, l.partition, j.version)
		if err != nil {
			return err
		}
		if p.Epoch != l.begin.Epoch {
			return fmt.Errorf("%w: the stream lost its tail or was made anew meanwhile: run this again", ErrReplayUnfit)
		}
		fresh, err := restoreEvents(ctx, tx, j.events)
		if err != nil {
			return err
		}
		if err := l.sortOut(ctx, tx.Conn(), j.events, j.homeless, fresh, t); err != nil {
			return err
		}
		if learned, err = r.sums.set(ctx, tx, t.counted, j.events); err != nil {
			return err
		}
		return bookNewDead(ctx, tx, t.dead)
	})
	if err != nil {
		return err
	}
	l.rules.version = j.version + 1 // raised by nobody but us
	r.sums.learn(learned)
	return nil
}

const restoreSQL = `
with fresh as (
    insert into usage_events (
        tenant_id, event_id, agent, kind, action_type, resource_id, quantity, idempotency_key,
        metadata, occurred_at, recorded_at, period_start, stream_epoch, stream_seq
    )
    select
        tenant_id, event_id, agent, kind, action_type, resource_id, quantity, idempotency_key,
        metadata::jsonb, occurred_at, recorded_at, period_start, stream_epoch, stream_seq
    from unnest(
        $1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::text[],
        $9::text[], $10::timestamptz[], $11::timestamptz[], $12::timestamptz[], $13::integer[], $14::bigint[]
    ) as batch (
        tenant_id, event_id, agent, kind, action_type, resource_id, quantity, idempotency_key,
        metadata, occurred_at, recorded_at, period_start, stream_epoch, stream_seq
    )
    on conflict (tenant_id, event_id) do nothing
    returning 1
)
select count(*)
from fresh`

// restoreEvents stores the events whose keys nobody has; their counters are
// set afterwards, as a whole.
func restoreEvents(ctx context.Context, tx pgx.Tx, events []placed) (fresh int, err error) {
	if len(events) == 0 {
		return 0, nil
	}
	c := newColumns(len(events))
	for _, p := range events {
		c.add(p.item, p.period)
	}
	takeColumns(tx.Conn())
	err = tx.QueryRow(ctx, restoreSQL,
		&c.tenant, &c.id, &c.agent, &c.kind, &c.action, &c.resource, &c.quantity, &c.key,
		&c.metadata, &c.occurred, &c.recorded, &c.period, &c.epoch, &c.seq).Scan(&fresh)
	if err != nil {
		return 0, fmt.Errorf("restore %d events: %w", len(events), err)
	}
	return fresh, nil
}

// bookNewDead keeps what cannot be an event. A retried letter stays what it is.
func bookNewDead(ctx context.Context, tx pgx.Tx, dead []deadLetter) error {
	if len(dead) == 0 {
		return nil
	}
	var steps pgx.Batch
	queueDeadLetters(&steps, dead)
	if err := tx.SendBatch(ctx, &steps).Close(); err != nil {
		return fmt.Errorf("book %d dead letters: %w", len(dead), err)
	}
	return nil
}

// counterKey names a counter.
type counterKey struct {
	tenant uuid.UUID
	agent  string
	period int64 // its start in microseconds
}

func keyOf(tenant uuid.UUID, agent string, period time.Time) counterKey {
	return counterKey{tenant, agent, period.UnixMicro()}
}
