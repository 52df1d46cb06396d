package position

import (
	"context"
	"encoding/json"
	"fmt"
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
	stored, err := StoredTime(ctx, nc, seq)
	if err != nil || stored == nil {
		return false, err
	}
	return stored.Equal(*storedAt), nil
}

// StoredTime is when the stream stored a message, as precisely as Postgres
// keeps it, or nil when the stream has no message there. It calls the API
// itself: the client library also reads the message's headers, by which an
// agent could forge the time (in a direct get) or, with headers that the
// library cannot read, keep every reader from starting.
func StoredTime(ctx context.Context, nc *nats.Conn, seq int64) (*time.Time, error) {
	failed := func(err error) (*time.Time, error) {
		return nil, &StreamError{fmt.Errorf("read message %d of stream %s: %w", seq, ingest.StreamName, err)}
	}
	answer, err := nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+ingest.StreamName, fmt.Appendf(nil, `{"seq":%d}`, seq))
	if err != nil {
		return failed(err)
	}
	var response struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Time time.Time `json:"time"`
		} `json:"message"`
	}
	if err := json.Unmarshal(answer.Data, &response); err != nil {
		return failed(err)
	}
	switch {
	case response.Error != nil && response.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return nil, nil
	case response.Error != nil:
		return failed(response.Error)
	}
	stored := response.Message.Time.UTC().Truncate(time.Microsecond)
	return &stored, nil
}
