package aggregator

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"
)

// beginEpoch records that the stream's history was cut and puts every position
// back to the last message that is surely still there. Sequences behind it
// have been or will be used again; the new epoch tells the uses apart. What was
// counted of the lost tail stays counted: it happened, and a message that is
// sent again is found by its key.
func (a *Aggregator) beginEpoch(ctx context.Context, at *attached, info *jetstream.StreamInfo) error {
	cut, err := a.lastIntact(ctx, at, info)
	if err != nil {
		return err
	}
	last := at.epochs.last()
	next := epoch{Epoch: last.Epoch + 1, FirstSeq: cut.seq + 1, StreamCreated: created(info), Partitions: at.partitions}
	err = pgx.BeginFunc(ctx, a.Pool, func(tx pgx.Tx) error {
		places, err := loadPlaces(ctx, tx, loadPlacesLockedSQL)
		if err != nil {
			return err
		}
		for _, p := range places {
			if p.Epoch != last.Epoch {
				return fmt.Errorf("another reader has found the cut already: %w", errMoved)
			}
		}
		return insertEpoch(ctx, tx, next, cut)
	})
	if err != nil {
		return fmt.Errorf("begin epoch %d: %w", next.Epoch, err)
	}
	a.Log.Error("the stream is not what was read of it: it lost its tail or was made anew; a new epoch begins, nothing counted is taken back",
		"epoch", next.Epoch, "intact_through", cut.seq, "stream_last", info.State.LastSeq, "read_through", furthest(at.places))
	at.epochs = append(at.epochs, next)
	at.places, err = loadPlaces(ctx, a.Pool, loadPlacesSQL)
	return err
}

func furthest(places map[int]place) (seq int64) {
	for _, p := range places {
		seq = max(seq, p.Seq)
	}
	return seq
}

const insertEpochSQL = `
insert into stream_epochs (epoch, first_seq, stream_created, partitions)
values ($1, $2, $3, $4)`

const putBackSQL = `
update stream_positions
set stream_epoch = $1,
    stored_at = case when seq > $2 then $3 else stored_at end,
    seq = least(seq, $2)`

func insertEpoch(ctx context.Context, tx pgx.Tx, e epoch, cut footprint) error {
	if _, err := tx.Exec(ctx, insertEpochSQL, e.Epoch, e.FirstSeq, e.StreamCreated, e.Partitions); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, putBackSQL, e.Epoch, cut.seq, nullTime(cut.storedAt))
	return err
}

// footprint is a sequence of which Postgres knows when its message was stored.
type footprint struct {
	seq      int64
	storedAt time.Time
}

// lastIntact finds the last footprint that the stream still shows: first among
// the ends of batches, newest first, then among the events and dead letters
// after it. A stream is intact up to any message that is still there, so each
// search may halve.
func (a *Aggregator) lastIntact(ctx context.Context, at *attached, info *jetstream.StreamInfo) (footprint, error) {
	if !at.epochs.last().StreamCreated.Equal(created(info)) {
		return footprint{}, nil
	}
	var found footprint
	for before := int64(1<<63 - 1); ; {
		steps, oldest, err := batchFootprints(ctx, a.Pool, at.epochs, before)
		if err != nil {
			return footprint{}, err
		}
		if found, err = at.newestHeld(ctx, info, steps); err != nil {
			return footprint{}, err
		}
		if found.seq > 0 || oldest == 0 {
			break
		}
		before = oldest
	}
	steps, err := messageFootprints(ctx, a.Pool, at.epochs, found)
	if err != nil {
		return footprint{}, err
	}
	closer, err := at.newestHeld(ctx, info, steps)
	if err != nil || closer.seq == 0 {
		return found, err
	}
	return closer, nil
}

// newestHeld is the last of the steps that the stream holds, zero for none.
func (at *attached) newestHeld(ctx context.Context, info *jetstream.StreamInfo, steps []footprint) (footprint, error) {
	slices.SortFunc(steps, func(a, b footprint) int { return int(a.seq - b.seq) })
	low, high := 0, len(steps) // steps[:low] are held, steps[high:] are not
	for low < high {
		mid := (low + high) / 2
		held, err := at.holds(ctx, info, steps[mid].seq, &steps[mid].storedAt)
		if err != nil {
			return footprint{}, err
		}
		if held {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low == 0 {
		return footprint{}, nil
	}
	return steps[low-1], nil
}

// Only rows of the stream as it stood count: a sequence of an older epoch that
// was used again since is no footprint.
const batchFootprintsSQL = `
select batch_id, stream_epoch, to_seq, last_stored_at
from batches
where batch_id < $1
  and last_stored_at is not null
order by batch_id desc
limit 1000`

func batchFootprints(ctx context.Context, q querier, known epochs, before int64) (steps []footprint, oldest int64, err error) {
	rows, _ := q.Query(ctx, batchFootprintsSQL, before)
	var e int32
	var f footprint
	_, err = pgx.ForEachRow(rows, []any{&oldest, &e, &f.seq, &f.storedAt}, func() error {
		if known.of(f.seq).Epoch <= e {
			steps = append(steps, f)
		}
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("read the ends of batches: %w", err)
	}
	return steps, oldest, nil
}

const messageFootprintsSQL = `
select stream_epoch, stream_seq, recorded_at
from usage_events
where recorded_at >= $1
  and stream_seq > $2
union all
select stream_epoch, stream_seq, received_at
from dead_letters
where received_at >= $1
  and stream_seq > $2`

func messageFootprints(ctx context.Context, q querier, known epochs, after footprint) (steps []footprint, err error) {
	rows, _ := q.Query(ctx, messageFootprintsSQL, after.storedAt, after.seq)
	var e int32
	var f footprint
	_, err = pgx.ForEachRow(rows, []any{&e, &f.seq, &f.storedAt}, func() error {
		if known.of(f.seq).Epoch == e {
			steps = append(steps, f)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read events after %d: %w", after.seq, err)
	}
	return steps, nil
}
