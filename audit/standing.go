package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"

	"odometer"
	"odometer/ingest"
)

// place is how far one partition is read and committed.
type place struct {
	Partition     int
	StreamEpoch   int32
	Seq           int64
	StoredAt      *time.Time
	CompleteUntil *time.Time
}

// epoch is a stretch of history in which sequences are not used twice.
type epoch struct {
	Epoch         int32
	FirstSeq      int64
	StreamCreated time.Time
}

// standing is the point that stream and events are compared up to.
type standing struct {
	places []place
	epochs []epoch
	dead   int64 // open dead letters
	stream jetstream.Stream
	info   *jetstream.StreamInfo
	end    int64 // the last sequence to compare
}

// of is the epoch of a message of the present stream: the highest one that
// begins at or before its sequence.
func (s *standing) of(seq int64) int32 {
	for _, e := range slices.Backward(s.epochs) {
		if e.FirstSeq <= seq {
			return e.Epoch
		}
	}
	return s.epochs[0].Epoch
}

// through is the last sequence of a partition that was read; what came by no
// subject of ours belongs to none.
func (s *standing) through(partition int) int64 {
	if partition < 0 || partition >= len(s.places) {
		return 0
	}
	return s.places[partition].Seq
}

const placesSQL = `
select partition, stream_epoch, seq, stored_at, complete_until
from stream_positions
order by partition`

const epochsSQL = `
select epoch, first_seq, stream_created
from stream_epochs
order by epoch`

const openDeadSQL = `
select count(*)
from dead_letters
where state = 'open'
  and ($1::uuid is null or tenant_id = $1)`

var snapshot = pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}

// loadStanding reads the positions in one snapshot.
func loadStanding(ctx context.Context, pool *pgxpool.Pool, tenant *uuid.UUID) (*standing, error) {
	s := &standing{}
	err := pgx.BeginTxFunc(ctx, pool, snapshot, func(tx pgx.Tx) (err error) {
		rows, _ := tx.Query(ctx, placesSQL)
		if s.places, err = pgx.CollectRows(rows, pgx.RowToStructByName[place]); err != nil {
			return err
		}
		rows, _ = tx.Query(ctx, epochsSQL)
		if s.epochs, err = pgx.CollectRows(rows, pgx.RowToStructByName[epoch]); err != nil {
			return err
		}
		return tx.QueryRow(ctx, openDeadSQL, tenant).Scan(&s.dead)
	})
	if err != nil {
		return nil, fmt.Errorf("read the positions: %w", err)
	}
	return s, nil
}

// look finds out which stream there is, after the positions were read: no
// reader can have moved them beyond its end.
func (a *auditor) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var err error
	a.at.stream, err = a.js.Stream(ctx, ingest.StreamName)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at stream %s: %w", ingest.StreamName, err)
	}
	if a.at.info, err = a.at.stream.Info(ctx); err != nil {
		return fmt.Errorf("look at stream %s: %w", ingest.StreamName, err)
	}
	return nil
}

// startAgain is how the books come to know of a stream that was cut.
var startAgain = command("run", "aggregator").note(" (it begins a new epoch and takes nothing back), then odometer audit")

// checkStream compares the stream with the positions. It is not ok when it is
// another stream: then no message of it can be compared.
func (a *auditor) checkStream(ctx context.Context) (ok bool, err error) {
	last := a.at.epochs[len(a.at.epochs)-1]
	switch {
	case a.at.info == nil:
		a.report.differs(streamEvents, Difference{Kind: StreamGone, Where: ingest.StreamName,
			Expected: "the stream created " + last.StreamCreated.UTC().Format(time.RFC3339), Found: "no stream",
			Cause: "the stream was deleted, or NATS lost its disk", Repair: startAgain})
		return false, nil
	case !a.at.info.Created.UTC().Truncate(time.Microsecond).Equal(last.StreamCreated):
		a.report.differs(streamEvents, Difference{Kind: StreamGone, Where: ingest.StreamName,
			Expected: "the stream created " + last.StreamCreated.UTC().Format(time.RFC3339Nano),
			Found:    "one created " + a.at.info.Created.UTC().Format(time.RFC3339Nano),
			Cause:    "the stream was made anew", Repair: startAgain})
		return false, nil
	}
	for _, p := range a.at.places {
		if err := a.checkPlace(ctx, p); err != nil {
			return false, err
		}
	}
	return true, nil
}

// checkPlace looks for the message that a position was read through.
func (a *auditor) checkPlace(ctx context.Context, p place) error {
	lost := Difference{Kind: TailLost, Where: fmt.Sprintf("partition %d at %d-%d", p.Partition, p.StreamEpoch, p.Seq),
		Cause: "the stream lost its tail: an old copy, or a disk that did not sync", Repair: startAgain}
	state := a.at.info.State
	switch {
	case p.Seq > int64(state.LastSeq):
		lost.Expected = fmt.Sprintf("a stream that reaches %d", p.Seq)
		lost.Found = fmt.Sprintf("it ends at %d", state.LastSeq)
		a.report.differs(streamEvents, lost)
		return nil
	case p.Seq < int64(state.FirstSeq), p.StoredAt == nil:
		return nil
	}
	stored, err := ingest.StoredTime(ctx, a.NATS, p.Seq)
	if err != nil {
		return err
	}
	if stored == nil || !stored.Truncate(time.Microsecond).Equal(*p.StoredAt) {
		lost.Expected, lost.Found = "the message stored "+p.StoredAt.UTC().Format(time.RFC3339Nano), "none"
		if stored != nil {
			lost.Found = "one stored " + stored.UTC().Format(time.RFC3339Nano)
			a.report.differs(streamEvents, lost)
		} else if now, err := a.at.stream.Info(ctx); err != nil {
			return err
		} else if int64(now.State.FirstSeq) <= p.Seq {
			a.report.differs(streamEvents, lost)
		}
	}
	return nil
}

// position is a message's place as people and commands write it.
func (s *standing) position(seq int64) string { return fmt.Sprintf("%d-%d", s.of(seq), seq) }

// furthest is the highest position.
func (s *standing) furthest() (seq int64) {
	for _, p := range s.places {
		seq = max(seq, p.Seq)
	}
	return seq
}

// readUntil is up to when every partition was read to the stream's end.
func (s *standing) readUntil() string {
	var oldest time.Time
	for i, p := range s.places {
		switch {
		case p.CompleteUntil == nil:
			return "never to its end"
		case i == 0 || p.CompleteUntil.Before(oldest):
			oldest = *p.CompleteUntil
		}
	}
	return "to its end of " + oldest.UTC().Format(time.RFC3339)
}

func (s *standing) partitionOf(tenant uuid.UUID) int {
	return odometer.PartitionOf(tenant, len(s.places))
}
