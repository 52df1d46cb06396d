package aggregator

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"odometer"
	"odometer/ingest"
)

// finishTime bounds the step in hand once a replay was told to stop.
const finishTime = time.Minute

// read takes the stream's messages in order, to the last that any aggregator
// had read when the replay began. It stops between two steps.
func (r *replay) read(ctx context.Context) error {
	for _, l := range r.lanes {
		if err := r.restoreLetters(ctx, l); err != nil {
			return err
		}
	}
	if r.done.First <= r.done.Last {
		if err := r.readStream(ctx); err != nil {
			return err
		}
	}
	for _, l := range r.lanes {
		if err := r.flush(ctx, l); err != nil {
			return err
		}
	}
	r.done.Through = max(r.done.Last, r.done.Through)
	r.Progress(r.done)
	return ctx.Err()
}

func (r *replay) readStream(ctx context.Context) error {
	options := ingest.ReadOptions{From: r.done.First, To: r.done.Last}
	if r.Tenant != nil {
		p := odometer.PartitionOf(*r.Tenant, r.at.partitions)
		for _, kind := range []string{"usage", "adjust"} {
			options.Subjects = append(options.Subjects, fmt.Sprintf("%s.%d.%s.*", kind, p, *r.Tenant))
		}
	}
	if r.Since != nil && r.From == 0 {
		options.Since = *r.Since
	}
	stream, err := ingest.OpenReader(ctx, r.NATS, r.at.stream, options)
	if err != nil {
		return natsError(err)
	}
	defer stream.Close()
	for {
		m, err := stream.Next(ctx)
		if err != nil || m == nil {
			return cmp.Or(r.sameStream(ctx), natsError(err))
		}
		if err := r.take(ctx, m); err != nil {
			return err
		}
	}
}

// sameStream makes sure that the stream that was read is still the one that the
// positions are of.
func (r *replay) sameStream(ctx context.Context) error {
	info, err := r.at.stream.Info(ctx)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return natsError(fmt.Errorf("look at stream %s: %w", ingest.StreamName, err))
	case !created(info).Equal(r.at.epochs.last().StreamCreated):
		return fmt.Errorf("%w: the stream was made anew meanwhile", ErrReplayUnfit)
	}
	return nil
}

// take hands a message to its partition.
func (r *replay) take(ctx context.Context, m *ingest.Message) error {
	seq := m.Position.Seq
	if m.Partition < 0 || m.Partition >= len(r.lanes) {
		return fmt.Errorf("%w: message %d has subject %q, which stream %s cannot have made: check its subject transform",
			ErrUnfit, seq, m.Subject, ingest.StreamName)
	}
	r.done.Read++
	r.done.Through = seq
	l := r.lanes[m.Partition]
	if seq > l.begin.Seq {
		r.done.Unread++
		return nil
	}
	m.Position = r.at.epochs.of(seq)
	return r.add(ctx, l, item{mark: mark{seq: seq, storedAt: m.StoredAt}, message: m})
}

// lane is one partition's way through a replay.
type lane struct {
	*worker
	begin   odometer.Position   // where the partition stood when the replay began
	next    batch               // read, and not applied yet
	retried []odometer.Position // letters to be restored
}

// add takes a message in its turn.
func (r *replay) add(ctx context.Context, l *lane, i item) error {
	l.decode(&i)
	l.next.add(i)
	if len(l.next.items) < r.Batch && l.next.bytes < maxBatchBytes {
		return nil
	}
	return r.flush(ctx, l)
}

// flush applies the messages that a lane has gathered.
func (r *replay) flush(ctx context.Context, l *lane) error {
	if err := ctx.Err(); err != nil || len(l.next.items) == 0 {
		return err
	}
	finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTime)
	defer cancel()
	if err := r.apply(finish, l, l.next.items, false); err != nil {
		return err
	}
	l.next = batch{}
	shown := r.done
	shown.Through = r.through()
	r.Progress(shown)
	return nil
}

// through is the sequence up to which everything is done.
func (r *replay) through() int64 {
	through := r.done.Through
	for _, l := range r.lanes {
		if len(l.next.items) > 0 {
			through = min(through, l.next.items[0].seq-1)
		}
	}
	return max(through, r.done.First-1)
}
