package audit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"

	"odometer"
	"odometer/aggregator/position"
	"odometer/ingest"
)

// snapshot is the point up to which stream and events are compared.
type snapshot struct {
	epochs     position.Epochs
	partitions []position.Partition
	end        int64 // the last sequence to compare
	openDead   int64 // open dead letters

	stream jetstream.Stream // nil: there is none
	info   *jetstream.StreamInfo
}

const openDeadSQL = `
select count(*)
from dead_letters
where state = 'open'
  and ($1::uuid is null or tenant_id = $1)`

// readOnly is a transaction that sees one snapshot of the database.
var readOnly = pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}

// loadSnapshot reads the positions and the open dead letters.
func loadSnapshot(ctx context.Context, pool *pgxpool.Pool, tenant *uuid.UUID) (*snapshot, error) {
	s := &snapshot{}
	err := pgx.BeginTxFunc(ctx, pool, readOnly, func(tx pgx.Tx) error {
		state, err := position.Load(ctx, tx)
		if err != nil {
			return err
		}
		s.epochs, s.partitions, s.end = state.Epochs, state.Partitions, state.Furthest()
		return tx.QueryRow(ctx, openDeadSQL, tenant).Scan(&s.openDead)
	})
	if err != nil {
		return nil, fmt.Errorf("read the positions: %w", err)
	}
	return s, nil
}

// loadStream finds out which stream there is. It comes after loadSnapshot: a
// reader may advance the positions at any moment, and what it reads after an
// older answer would look like a lost tail.
func (s *snapshot) loadStream(ctx context.Context, js jetstream.JetStream) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	stream, err := js.Stream(ctx, ingest.StreamName)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return nil
	case err != nil:
		return fmt.Errorf("read the state of stream %s: %w", ingest.StreamName, err)
	}
	s.stream, s.info = stream, stream.CachedInfo()
	return nil
}

// read is how far a partition was read. -1 is the partition of messages that no
// subject of ours brings; nobody reads those.
func (s *snapshot) read(partition int) int64 {
	if partition < 0 || partition >= len(s.partitions) {
		return 0
	}
	return s.partitions[partition].At.Seq
}

// partitionOf is the partition of a tenant.
func (s *snapshot) partitionOf(tenant uuid.UUID) int {
	return odometer.PartitionOf(tenant, len(s.partitions))
}

// label is a message's position as people and commands write it.
func (s *snapshot) label(seq int64) string {
	return fmt.Sprintf("%d-%d", s.epochs.Of(seq).Epoch, seq)
}

// readUntil says until when every partition was read to the stream's end.
func (s *snapshot) readUntil() string {
	var oldest time.Time
	for i, p := range s.partitions {
		switch {
		case p.CompleteUntil == nil:
			return "never to its end"
		case i == 0 || p.CompleteUntil.Before(oldest):
			oldest = *p.CompleteUntil
		}
	}
	return "to its end of " + oldest.UTC().Format(time.RFC3339)
}

// beginsBefore reports whether a time is before the first message that the
// stream still holds: what happened then cannot be proven.
func (s *snapshot) beginsBefore(t time.Time) bool {
	return s.info != nil && s.info.State.FirstSeq > 1 && t.Before(s.info.State.FirstTime)
}

// newEpoch is the repair of a stream that does not continue what was read.
var newEpoch = command("run", "aggregator").note(" (it begins a new epoch and takes nothing back), then odometer audit")

// checkStream compares the stream with the positions. It is not ok when it is
// another stream: then none of its messages can be compared.
func (a *auditor) checkStream(ctx context.Context) (ok bool, err error) {
	created := a.at.epochs.Last().StreamCreated
	gone := Difference{Kind: StreamGone, Where: ingest.StreamName, Repair: newEpoch}
	switch {
	case a.at.info == nil:
		gone.Expected, gone.Found = "the stream created "+created.UTC().Format(time.RFC3339), "no stream"
		gone.Cause = "the stream was deleted, or NATS lost its disk"
		a.report.addDifference(streamEvents, gone)
		return false, nil
	case !position.Created(a.at.info).Equal(created):
		gone.Expected = "the stream created " + created.UTC().Format(time.RFC3339Nano)
		gone.Found = "one created " + a.at.info.Created.UTC().Format(time.RFC3339Nano)
		gone.Cause = "the stream was created again"
		a.report.addDifference(streamEvents, gone)
		return false, nil
	}
	for _, p := range a.at.partitions {
		if err := a.checkPartition(ctx, p); err != nil {
			return false, err
		}
	}
	return true, nil
}

// checkPartition looks for the message at a partition's position.
func (a *auditor) checkPartition(ctx context.Context, p position.Partition) error {
	lost := Difference{Kind: StreamTailLost, Where: fmt.Sprintf("partition %d at %d-%d", p.Number, p.At.Epoch, p.At.Seq),
		Cause: "the stream lost its tail: an old copy, or a disk that did not sync", Repair: newEpoch}
	state := a.at.info.State
	switch {
	case p.At.Seq > int64(state.LastSeq):
		lost.Expected = fmt.Sprintf("a stream that reaches %d", p.At.Seq)
		lost.Found = fmt.Sprintf("it ends at %d", state.LastSeq)
		a.report.addDifference(streamEvents, lost)
		return nil
	case p.At.Seq < int64(state.FirstSeq), p.StoredAt == nil:
		return nil
	}
	stored, err := ingest.StoredTime(ctx, a.options.NATS, p.At.Seq)
	if err != nil {
		return err
	}
	lost.Expected, lost.Found = "the message stored "+p.StoredAt.UTC().Format(time.RFC3339Nano), "none"
	switch {
	case stored == nil: // it may have left the stream by age since
		now, err := a.at.stream.Info(ctx)
		if err != nil || p.At.Seq < int64(now.State.FirstSeq) {
			return err
		}
	case stored.Truncate(time.Microsecond).Equal(*p.StoredAt):
		return nil
	default:
		lost.Found = "one stored " + stored.UTC().Format(time.RFC3339Nano)
	}
	a.report.addDifference(streamEvents, lost)
	return nil
}
