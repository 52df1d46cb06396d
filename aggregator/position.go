package aggregator

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
)

// place is how far one partition is read and committed.
type place struct {
	odometer.Position // the last sequence of the whole stream that was read through
	storedAt          *time.Time
	completeUntil     *time.Time
	rulesVersion      int64
}

// epoch is a stretch of history in which sequences are not used twice.
type epoch struct {
	Epoch         int32
	FirstSeq      int64
	StreamCreated time.Time
	Partitions    int
}

// epochs are all of them, oldest first; at least one.
type epochs []epoch

func (e epochs) last() epoch { return e[len(e)-1] }

// of is the position of a message of the present stream: the highest epoch
// that begins at or before its sequence.
func (e epochs) of(seq int64) odometer.Position {
	for i := len(e) - 1; i > 0; i-- {
		if e[i].FirstSeq <= seq {
			return odometer.Position{Epoch: e[i].Epoch, Seq: seq}
		}
	}
	return odometer.Position{Epoch: e[0].Epoch, Seq: seq}
}

const loadEpochsSQL = `
select epoch, first_seq, stream_created, partitions
from stream_epochs
order by epoch`

// querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func loadEpochs(ctx context.Context, q querier) (epochs, error) {
	rows, _ := q.Query(ctx, loadEpochsSQL)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[epoch])
	if err != nil {
		return nil, fmt.Errorf("load the stream's epochs: %w", err)
	}
	return found, nil
}

const loadPlacesSQL = `
select partition, stream_epoch, seq, stored_at, complete_until
from stream_positions
order by partition`

const loadPlacesLockedSQL = loadPlacesSQL + `
for update`

func loadPlaces(ctx context.Context, q querier, sql string) (map[int]place, error) {
	rows, _ := q.Query(ctx, sql)
	found := map[int]place{}
	var partition int
	var p place
	_, err := pgx.ForEachRow(rows, []any{
		&partition, &p.Epoch, &p.Seq, &p.storedAt, &p.completeUntil,
	}, func() error {
		found[partition] = p
		p.storedAt, p.completeUntil = nil, nil
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("load the positions: %w", err)
	}
	return found, nil
}

const makeEpochSQL = `
insert into stream_epochs (epoch, first_seq, stream_created, partitions)
values (1, 1, $1, $2)
on conflict do nothing`

const makePlacesSQL = `
insert into stream_positions (partition, stream_epoch, seq)
select partition, 1, 0
from generate_series(0, $1::integer - 1) as partition
on conflict do nothing`

// makePlaces begins the books of a stream that was never read. Readers that
// start at the same time agree on the first one's rows.
func makePlaces(ctx context.Context, pool *pgxpool.Pool, created time.Time, partitions int) error {
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, makeEpochSQL, created, partitions); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, makePlacesSQL, partitions)
		return err
	})
	if err != nil {
		return fmt.Errorf("make the positions of %d partitions: %w", partitions, err)
	}
	return nil
}

const advanceSQL = `
update stream_positions
set seq = $4,
    stored_at = case when seq = $4 then stored_at else $5 end,
    complete_until = greatest(complete_until, $6)
where partition = $1
  and stream_epoch = $2
  and seq = $3`

// advance moves a partition's position over messages of other partitions, or
// only says until when it is complete.
func advance(ctx context.Context, pool *pgxpool.Pool, partition int, from odometer.Position, m mark) error {
	tag, err := pool.Exec(ctx, advanceSQL, partition, from.Epoch, from.Seq, m.seq, nullTime(m.storedAt), nullTime(m.completeUntil()))
	if err != nil {
		return fmt.Errorf("advance partition %d to %d: %w", partition, m.seq, err)
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("advance partition %d from %d: %w", partition, from.Seq, errMoved)
	}
	return nil
}

// nullTime is the value that Postgres keeps of a time: null when unknown.
func nullTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
