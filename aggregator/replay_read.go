package aggregator

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

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
	pull, err := newPull(ctx, r.NATS, r.at.stream, r.done.First-1, r.narrow)
	if err != nil || pull.pending == 0 {
		return err
	}
	defer pull.stop()
	tick := time.NewTicker(pullBeat)
	defer tick.Stop()
	for expected := uint64(1); ; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			if gone, err := r.agedOut(ctx); gone || err != nil {
				return err
			}
			if err := pull.revive(); err != nil {
				return err
			}
		case msg := <-pull.arrived:
			if pull.fromServer(msg) {
				if err := pull.obey(msg); err != nil {
					return err
				}
				continue
			}
			end, err := r.take(ctx, msg, expected)
			if end || err != nil {
				return err
			}
			expected++
			if err := pull.handled(); err != nil {
				return err
			}
		}
	}
}

// narrow asks the server for what is wanted only.
func (r *replay) narrow(c *jetstream.ConsumerConfig) {
	if r.Tenant != nil {
		p := odometer.PartitionOf(*r.Tenant, r.at.partitions)
		for _, kind := range []string{"usage", "adjust"} {
			c.FilterSubjects = append(c.FilterSubjects, fmt.Sprintf("%s.%d.%s.*", kind, p, *r.Tenant))
		}
	}
	if r.Since != nil && r.From == 0 {
		c.DeliverPolicy, c.OptStartSeq, c.OptStartTime = jetstream.DeliverByStartTimePolicy, 0, r.Since
	}
}

// agedOut reports whether all that is left to read has left the stream by age.
func (r *replay) agedOut(ctx context.Context) (bool, error) {
	info, err := r.at.stream.Info(ctx)
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case err != nil:
		return false, natsError(fmt.Errorf("look at stream %s: %w", ingest.StreamName, err))
	case !created(info).Equal(r.at.epochs.last().StreamCreated):
		return false, fmt.Errorf("%w: the stream was made anew meanwhile", ErrReplayUnfit)
	}
	return int64(info.State.FirstSeq) > r.done.Last, nil
}

// take hands a message to its partition; end after the last that is wanted.
func (r *replay) take(ctx context.Context, msg *nats.Msg, expected uint64) (end bool, err error) {
	meta, err := msg.Metadata()
	if err != nil {
		return false, natsError(fmt.Errorf("read the stream: %w", err))
	}
	if meta.Sequence.Consumer != expected {
		return false, natsError(fmt.Errorf("%w after message %d", errGap, r.done.Through))
	}
	seq := int64(meta.Sequence.Stream)
	if seq > r.done.Last {
		return true, nil
	}
	kind, partition, tenant, agent, ok := ingest.ParseStored(msg.Subject)
	if !ok || partition >= len(r.lanes) {
		return false, fmt.Errorf("%w: message %d has subject %q, which stream %s cannot have made: check its subject transform",
			ErrUnfit, seq, msg.Subject, ingest.StreamName)
	}
	r.done.Read++
	r.done.Through = seq
	l := r.lanes[partition]
	if seq > l.begin.Seq {
		r.done.Unread++
	} else {
		stored := meta.Timestamp.UTC().Truncate(time.Microsecond)
		err = r.add(ctx, l, item{mark: mark{seq: seq, storedAt: stored}, message: &ingest.Message{
			Kind: kind, TenantToken: tenant, AgentToken: agent,
			Header: msg.Header, Data: msg.Data, StoredAt: stored, Position: r.at.epochs.of(seq),
		}})
	}
	return seq == r.done.Last || meta.NumPending == 0, err
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
