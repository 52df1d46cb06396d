package position

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Footprint is a sequence of which Postgres knows when its message was stored.
type Footprint struct {
	Seq      int64
	StoredAt time.Time
}

// BeginEpoch records that the stream's history was cut and puts every position
// back to the last message that is surely still there, which it returns.
// Sequences after that message have been or will be used again; the new epoch
// separates the two uses. What was counted of the lost tail stays counted: it
// happened, and a message that is sent again is found by its key.
//
// ErrMoved: another reader has begun the epoch already.
func (s *State) BeginEpoch(ctx context.Context, pool *pgxpool.Pool, nc *nats.Conn, info *jetstream.StreamInfo) (Footprint, error) {
	cut, err := s.lastIntact(ctx, pool, nc, info)
	if err != nil {
		return cut, err
	}
	last := s.Epochs.Last()
	next := Epoch{Epoch: last.Epoch + 1, FirstSeq: cut.Seq + 1, StreamCreated: Created(info), Partitions: len(s.Partitions)}
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		partitions, err := loadPartitions(ctx, tx, partitionsSQL+" for update")
		if err != nil {
			return err
		}
		for _, p := range partitions {
			if p.At.Epoch != last.Epoch {
				return fmt.Errorf("another reader has found the cut already: %w", ErrMoved)
			}
		}
		return insertEpoch(ctx, tx, next, cut)
	})
	if err != nil {
		return cut, fmt.Errorf("begin epoch %d: %w", next.Epoch, err)
	}
	s.Epochs = append(s.Epochs, next)
	s.Partitions, err = loadPartitions(ctx, pool, partitionsSQL)
	return cut, err
}

const insertEpochSQL = `
insert into stream_epochs (epoch, first_seq, stream_created, partitions)
values ($1, $2, $3, $4)`

const putBackSQL = `
update stream_positions
set stream_epoch = $1,
    stored_at = case when seq > $2 then $3 else stored_at end,
    seq = least(seq, $2)`

func insertEpoch(ctx context.Context, tx pgx.Tx, e Epoch, cut Footprint) error {
	if _, err := tx.Exec(ctx, insertEpochSQL, e.Epoch, e.FirstSeq, e.StreamCreated, e.Partitions); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, putBackSQL, e.Epoch, cut.Seq, NullTime(cut.StoredAt))
	return err
}

// lastIntact finds the last footprint that the stream still shows: first among
// the ends of batches, newest first, then among the events and dead letters
// after it. A stream is intact up to any message that is still there, so each
// search is a binary one.
func (s *State) lastIntact(ctx context.Context, pool *pgxpool.Pool, nc *nats.Conn, info *jetstream.StreamInfo) (Footprint, error) {
	if !s.Epochs.Last().StreamCreated.Equal(Created(info)) {
		return Footprint{}, nil
	}
	var found Footprint
	for before := int64(math.MaxInt64); ; {
		ends, oldest, err := s.footprints(ctx, pool, batchEndsSQL, before)
		if err != nil {
			return Footprint{}, err
		}
		if found, err = newestHeld(ctx, nc, info, ends); err != nil {
			return Footprint{}, err
		}
		if found.Seq > 0 || oldest == 0 {
			break
		}
		before = oldest
	}
	messages, _, err := s.footprints(ctx, pool, messagesAfterSQL, found.StoredAt, found.Seq)
	if err != nil {
		return Footprint{}, err
	}
	closer, err := newestHeld(ctx, nc, info, messages)
	if err != nil || closer.Seq == 0 {
		return found, err
	}
	return closer, nil
}

// newestHeld is the last of the footprints that the stream holds, zero for none.
func newestHeld(ctx context.Context, nc *nats.Conn, info *jetstream.StreamInfo, footprints []Footprint) (Footprint, error) {
	slices.SortFunc(footprints, func(a, b Footprint) int { return int(a.Seq - b.Seq) })
	low, high := 0, len(footprints) // [:low] are held, [high:] are not
	for low < high {
		mid := (low + high) / 2
		held, err := holds(ctx, nc, info, footprints[mid].Seq, &footprints[mid].StoredAt)
		if err != nil {
			return Footprint{}, err
		}
		if held {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low == 0 {
		return Footprint{}, nil
	}
	return footprints[low-1], nil
}

const batchEndsSQL = `
select batch_id, stream_epoch, to_seq, last_stored_at
from batches
where batch_id < $1
  and last_stored_at is not null
order by batch_id desc
limit 1000`

const messagesAfterSQL = `
select 0, stream_epoch, stream_seq, recorded_at
from usage_events
where recorded_at >= $1
  and stream_seq > $2
union all
select 0, stream_epoch, stream_seq, received_at
from dead_letters
where received_at >= $1
  and stream_seq > $2`

// footprints reads the ends of the newest batches before one, with the oldest
// batch among them, or the messages after a footprint that became events or dead
// letters. A sequence of an older epoch that was used again since is no footprint.
func (s *State) footprints(ctx context.Context, q Querier, sql string, args ...any) (found []Footprint, oldest int64, err error) {
	rows, _ := q.Query(ctx, sql, args...)
	var epoch int32
	var f Footprint
	_, err = pgx.ForEachRow(rows, []any{&oldest, &epoch, &f.Seq, &f.StoredAt}, func() error {
		if s.Epochs.Of(f.Seq).Epoch <= epoch {
			found = append(found, f)
		}
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("read what was read of the stream: %w", err)
	}
	return found, oldest, nil
}
