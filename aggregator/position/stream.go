package position

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"odometer/ingest"
)

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
