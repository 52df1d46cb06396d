package admin

import (
	"context"
	"time"
)

// lookAtStream says where the stream ends and what of it is not read yet. The
// positions are looked at once more: what was read meanwhile does not wait.
func (s *server) lookAtStream(ctx context.Context, o *Overview) (err error) {
	if o.Stream.LastSeq, err = s.streamEnd(ctx); err != nil || o.Stream.LastSeq == nil {
		return err
	}
	now, err := loadPositions(ctx, s.Pool)
	if err != nil {
		return err
	}
	o.LagMessages, err = s.lag(ctx, now.Partitions, o.Stream.LastSeq)
	return err
}

// streamTimeout is how long the overview waits for NATS, beside which all else
// is worth showing.
const streamTimeout = time.Second

// streamEnd is nil when it is not known: that NATS is away is no reason to show
// nothing.
func (s *server) streamEnd(ctx context.Context) (*int64, error) {
	if s.StreamEnd == nil {
		return nil, nil
	}
	asked, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	end, err := s.StreamEnd(asked)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, nil
	}
	return &end, nil
}

// lag is how many messages through the end are not read yet. A partition stands
// behind the end also while all that followed are others' messages, so the
// stream is asked what is the partition's own. The end was read first: a reader
// may have come beyond it.
func (s *server) lag(ctx context.Context, partitions []PartitionRead, end *int64) (*int64, error) {
	if end == nil || len(partitions) == 0 {
		return end, nil // nothing of it was read
	}
	asked, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	lag := int64(0)
	for _, p := range partitions {
		if p.Seq >= *end {
			continue
		}
		n, err := s.Waiting(asked, p.Partition, p.Seq, *end)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			return nil, nil
		}
		lag += n
	}
	return &lag, nil
}
