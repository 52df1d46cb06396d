// Package position says how far each partition of the stream is read and
// committed, and whether the stream is still the one that was read.
//
// A row of stream_positions holds a partition's position: the last sequence of
// the whole stream that was read through, with the time at which the stream
// stored that message. A row of stream_epochs begins an epoch, a stretch of
// history in which no sequence is used twice. When the stream lost its tail or
// was created again, its sequences repeat: a new epoch begins, every position
// goes back to the last message that is surely still there, and what was
// counted stays counted.
//
// Everything here compares Postgres with the stream; nothing here reads
// messages or counts them.
package position

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
)

// ErrMoved says that another reader moved a position, or began an epoch: what
// was read from the old position must be dropped, and read again from the new.
var ErrMoved = errors.New("the position was moved by another reader")

// ErrNeverRead says that there are no positions yet.
var ErrNeverRead = errors.New("no aggregator has read the stream yet: start one with: odometer run aggregator")

// State is how far the stream was read.
type State struct {
	Epochs     Epochs
	Partitions []Partition // by number
}

// Partition is a row of stream_positions.
type Partition struct {
	Number        int
	At            odometer.Position // the last sequence of the whole stream that was read through
	StoredAt      *time.Time        // when the stream stored that message; nil when it is not known
	CompleteUntil *time.Time        // every message of the partition stored until then was read; nil for never
}

// Epoch is a row of stream_epochs: a stretch of history in which no sequence is
// used twice.
type Epoch struct {
	Epoch         int32
	FirstSeq      int64
	StreamCreated time.Time
	Partitions    int
}

// Epochs are all epochs, oldest first. A stream that was read has at least one.
type Epochs []Epoch

// Last is the present epoch.
func (e Epochs) Last() Epoch { return e[len(e)-1] }

// Of is the position of a message of the present stream: its epoch is the
// highest one that begins at or before its sequence.
func (e Epochs) Of(seq int64) odometer.Position {
	for i := len(e) - 1; i > 0; i-- {
		if e[i].FirstSeq <= seq {
			return odometer.Position{Epoch: e[i].Epoch, Seq: seq}
		}
	}
	return odometer.Position{Epoch: e[0].Epoch, Seq: seq}
}

// Furthest is the highest sequence that any partition was read through.
func (s *State) Furthest() (seq int64) {
	for _, p := range s.Partitions {
		seq = max(seq, p.At.Seq)
	}
	return seq
}

// Querier is a pool, a connection or a transaction.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

const epochsSQL = `
select epoch, first_seq, stream_created, partitions
from stream_epochs
order by epoch`

// Load reads epochs and positions. Both are empty when the stream was never read.
func Load(ctx context.Context, q Querier) (s State, err error) {
	rows, _ := q.Query(ctx, epochsSQL)
	if s.Epochs, err = pgx.CollectRows(rows, pgx.RowToStructByName[Epoch]); err != nil {
		return s, fmt.Errorf("load the stream's epochs: %w", err)
	}
	s.Partitions, err = loadPartitions(ctx, q, partitionsSQL)
	return s, err
}

const partitionsSQL = `
select partition, stream_epoch, seq, stored_at, complete_until
from stream_positions
order by partition`

func loadPartitions(ctx context.Context, q Querier, sql string) ([]Partition, error) {
	rows, _ := q.Query(ctx, sql)
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p Partition, err error) {
		err = row.Scan(&p.Number, &p.At.Epoch, &p.At.Seq, &p.StoredAt, &p.CompleteUntil)
		return p, err
	})
	if err != nil {
		return nil, fmt.Errorf("load the positions: %w", err)
	}
	return found, nil
}

const partitionSQL = `
select stream_epoch, seq
from stream_positions
where partition = $1`

// Of is where one partition stands now.
func Of(ctx context.Context, q Querier, partition int) (at odometer.Position, err error) {
	rows, _ := q.Query(ctx, partitionSQL, partition)
	_, err = pgx.ForEachRow(rows, []any{&at.Epoch, &at.Seq}, func() error { return nil })
	if err != nil {
		return at, fmt.Errorf("load the position of partition %d: %w", partition, err)
	}
	return at, nil
}

const createEpochSQL = `
insert into stream_epochs (epoch, first_seq, stream_created, partitions)
values (1, 1, $1, $2)
on conflict do nothing`

const createPartitionsSQL = `
insert into stream_positions (partition, stream_epoch, seq)
select partition, 1, 0
from generate_series(0, $1::integer - 1) as partition
on conflict do nothing`

// Create makes the first epoch and the positions of a stream that was never
// read. Readers that start at the same time agree on the first one's rows.
func Create(ctx context.Context, pool *pgxpool.Pool, streamCreated time.Time, partitions int) error {
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, createEpochSQL, streamCreated, partitions); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, createPartitionsSQL, partitions)
		return err
	})
	if err != nil {
		return fmt.Errorf("create the positions of %d partitions: %w", partitions, err)
	}
	return nil
}

// Mark says that all messages of a partition up to a sequence were read.
type Mark struct {
	Seq      int64     // of the whole stream
	StoredAt time.Time // of the message at Seq; zero when it is not known
	Complete time.Time // every message stored until then lies at or before Seq; zero when not known
}

// CompleteUntil is the time until which the partition is complete once it was
// read through the mark: at least until its last message was stored.
func (m Mark) CompleteUntil() time.Time {
	if m.Complete.After(m.StoredAt) {
		return m.Complete
	}
	return m.StoredAt
}

const advanceSQL = `
update stream_positions
set seq = $4,
    stored_at = case when seq = $4 then stored_at else $5 end,
    complete_until = greatest(complete_until, $6)
where partition = $1
  and stream_epoch = $2
  and seq = $3`

// Advance moves a partition's position over messages of other partitions, or
// only says until when the partition is complete.
func Advance(ctx context.Context, pool *pgxpool.Pool, partition int, from odometer.Position, to Mark) error {
	tag, err := pool.Exec(ctx, advanceSQL, partition, from.Epoch, from.Seq, to.Seq, NullTime(to.StoredAt), NullTime(to.CompleteUntil()))
	if err != nil {
		return fmt.Errorf("advance partition %d to %d: %w", partition, to.Seq, err)
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("advance partition %d from %d: %w", partition, from.Seq, ErrMoved)
	}
	return nil
}

// NullTime is the time as Postgres keeps it: null when it is not known.
func NullTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
