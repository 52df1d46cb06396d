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

	"odometer/ingest"
)

// BeginEpoch records that the stream's history was cut and puts every position
// back to the last message that is surely still there, which it returns.
// Sequences after that message have been or will be used again; the new epoch
// separates the two uses. What was counted of the lost tail stays counted: it
// happened, and a message that is sent again is found by its key.
//
// ErrMoved: another reader has begun the epoch already.
func (s *State) BeginEpoch(ctx context.Context, pool *pgxpool.Pool, nc *nats.Conn, info *jetstream.StreamInfo) (Mark, error) {
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
		if _, err := tx.Exec(ctx, insertEpochSQL, next.Epoch, next.FirstSeq, next.StreamCreated, next.Partitions); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, putBackSQL, next.Epoch, cut.Seq, NullTime(cut.StoredAt))
		return err
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

// lastIntact finds the last footprint that the stream still shows: first among
// the ends of batches, newest first, then among the events and dead letters
// after it. A stream is intact up to any message that is still there, so each
// search is a binary one.
func (s *State) lastIntact(ctx context.Context, pool *pgxpool.Pool, nc *nats.Conn, info *jetstream.StreamInfo) (Mark, error) {
	if !s.Epochs.Last().StreamCreated.Equal(Created(info)) {
		return Mark{}, nil
	}
	var found Mark
	for before := int64(math.MaxInt64); ; {
		ends, oldest, err := s.footprints(ctx, pool, batchEndsSQL, before)
		if err != nil {
			return Mark{}, err
		}
		if found, err = newestHeld(ctx, nc, info, ends); err != nil {
			return Mark{}, err
		}
		if found.Seq > 0 || oldest == 0 {
			break
		}
		before = oldest
	}
	messages, _, err := s.footprints(ctx, pool, messagesAfterSQL, found.StoredAt, found.Seq)
	if err != nil {
		return Mark{}, err
	}
	closer, err := newestHeld(ctx, nc, info, messages)
	if err != nil || closer.Seq == 0 {
		return found, err
	}
	return closer, nil
}

// newestHeld is the last of the footprints that the stream holds, zero for none.
func newestHeld(ctx context.Context, nc *nats.Conn, info *jetstream.StreamInfo, footprints []Mark) (Mark, error) {
	slices.SortFunc(footprints, func(a, b Mark) int { return int(a.Seq - b.Seq) })
	low, high := 0, len(footprints) // [:low] are held, [high:] are not
	for low < high {
		mid := (low + high) / 2
		held, err := holds(ctx, nc, info, footprints[mid].Seq, &footprints[mid].StoredAt)
		if err != nil {
			return Mark{}, err
		}
		if held {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low == 0 {
		return Mark{}, nil
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
func (s *State) footprints(ctx context.Context, q Querier, sql string, args ...any) (found []Mark, oldest int64, err error) {
	rows, _ := q.Query(ctx, sql, args...)
	var epoch int32
	var f Mark
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

// StreamError is a failure of NATS, as against one of Postgres.
type StreamError struct{ Err error }

func (e *StreamError) Error() string { return e.Err.Error() }

// Unwrap is the failure itself.
func (e *StreamError) Unwrap() error { return e.Err }

// Created is the stream's time of creation as precisely as Postgres keeps it.
func Created(info *jetstream.StreamInfo) time.Time {
	return info.Created.UTC().Truncate(time.Microsecond)
}

// Intact reports whether the stream still continues what was read of it: it has
// the same time of creation, and at each position the message that was read
// there. The info must be younger than the state: another reader may advance
// the positions at any moment, and what it reads after an older info would look
// like a lost tail.
func (s *State) Intact(ctx context.Context, nc *nats.Conn, info *jetstream.StreamInfo) (bool, error) {
	if !s.Epochs.Last().StreamCreated.Equal(Created(info)) {
		return false, nil
	}
	for _, p := range s.Partitions {
		same, err := holds(ctx, nc, info, p.At.Seq, p.StoredAt)
		if err != nil || !same {
			return false, err
		}
	}
	return true, nil
}

// holds reports whether the stream's message at seq is the one that was stored
// at the given time. A message that has left the stream by age counts as the same.
func holds(ctx context.Context, nc *nats.Conn, info *jetstream.StreamInfo, seq int64, storedAt *time.Time) (bool, error) {
	if seq > int64(info.State.LastSeq) {
		return false, nil
	}
	if seq < int64(info.State.FirstSeq) || storedAt == nil {
		return true, nil
	}
	stored, err := ingest.StoredTime(ctx, nc, seq)
	if err != nil {
		return false, &StreamError{err}
	}
	return stored != nil && stored.Truncate(time.Microsecond).Equal(*storedAt), nil
}
