package audit

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"odometer"
	"odometer/aggregator/position"
	"odometer/ingest"
)

// What is compared at once.
const (
	chunkMessages = 20_000
	chunkBytes    = 8 << 20
)

// chunk is a range of the stream: its messages and the sequences between which
// they lie, both included.
type chunk struct {
	from, to int64
	messages []message
	bytes    int
	waiting  int64 // messages that their partition has not read yet
}

// message is one message of the stream.
type message struct {
	*ingest.Message
	event   odometer.Event
	id      [16]byte // the event's
	reject  *odometer.Rejection
	outcome outcome
}

func (m *message) seq() int64 { return m.Position.Seq }

// find returns the message at a sequence, nil when the chunk has none.
func (c *chunk) find(seq int64) *message {
	i := int(seq - c.from) // right when the chunk has no gap
	if i < len(c.messages) && i >= 0 && c.messages[i].seq() == seq {
		return &c.messages[i]
	}
	i, ok := slices.BinarySearchFunc(c.messages, seq, func(m message, seq int64) int { return int(m.seq() - seq) })
	if !ok {
		return nil
	}
	return &c.messages[i]
}

// compareStream compares each message that was read with what it became.
func (a *auditor) compareStream(ctx context.Context) (err error) {
	a.step("stream and events")
	if a.at, err = loadSnapshot(ctx, a.options.Pool, a.scope.Tenant); err != nil {
		return err
	}
	a.report.OpenDead = a.at.openDead
	if err := a.at.loadStream(ctx, a.js); err != nil {
		return err
	}
	if len(a.at.epochs) == 0 || len(a.at.partitions) == 0 {
		a.report.addNote("stream and events: the stream was never read: start: odometer run aggregator")
		return nil
	}
	if ok, err := a.checkStream(ctx); err != nil {
		return err
	} else if !ok {
		a.report.addNote("stream and events: unknown: no message of the stream that was read is there to compare with")
		return nil
	}
	state := a.at.info.State
	// A stream that never held a message says that its first sequence is 0.
	first := max(1, int64(state.FirstSeq))
	a.report.Stream.First = first
	a.at.end = min(a.at.end, int64(state.LastSeq))
	a.refreshIndex(ctx)
	if err := a.compareMessages(ctx, first); err != nil {
		return err
	}
	if err := a.countOlder(ctx, first); err != nil {
		return err
	}
	a.noteWaiting()
	return a.checkEpochs(ctx)
}

// What the index knows of a block range only grows. Where retention has removed
// rows and new ones came in, it is forgotten first, else the range would seem to
// hold all sequences from the oldest to the newest. A range has 64 blocks, see
// migration 00006.
const renewRangesSQL = `
select brin_desummarize_range('usage_events_stream_seq', block),
       brin_summarize_range('usage_events_stream_seq', block)
from generate_series($1::bigint, $2::bigint - 1, 64) as block`

const removedBlocksSQL = `
select case
    when exists (select from usage_removed)
    then pg_relation_size('usage_events') / current_setting('block_size')::bigint
    else 0
end`

const summarizeSQL = `
select brin_summarize_new_values('usage_events_stream_seq')`

// renewedAtOnce are the blocks that one transaction summarizes again, 50 MiB: a
// longer one would hold a snapshot that keeps old versions of counters alive.
const renewedAtOnce = 100 * 64

// refreshIndex brings the index on sequences up to date, for every chunk reads
// all blocks that the index does not cover yet. It may fail: the role may not
// own the table, or a vacuum may be under way. The audit is then only slower.
func (a *auditor) refreshIndex(ctx context.Context) {
	var blocks int64
	var err error
	if a.scope.Tenant == nil {
		err = a.options.Pool.QueryRow(ctx, removedBlocksSQL).Scan(&blocks)
	}
	for from := int64(0); from < blocks && err == nil; from += renewedAtOnce {
		err = a.execBriefly(ctx, renewRangesSQL, from, min(blocks, from+renewedAtOnce))
	}
	if err == nil {
		err = a.execBriefly(ctx, summarizeSQL)
	}
	if err != nil {
		a.options.Log.Debug("the index of events by sequence is not up to date", "reason", err)
	}
}

// execBriefly runs a statement that waits for its lock for so short a time that
// it cancels no vacuum.
func (a *auditor) execBriefly(ctx context.Context, sql string, args ...any) error {
	return pgx.BeginFunc(ctx, a.options.Pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `set local lock_timeout = '200ms'`); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, sql, args...)
		return err
	})
}

const olderSQL = `
select count(*)
from usage_events
where stream_seq < $1`

// countOlder counts the events whose messages have left the stream by age.
func (a *auditor) countOlder(ctx context.Context, first int64) error {
	if a.scope.Tenant != nil || first == 1 {
		return nil
	}
	var older int64
	if err := a.options.Pool.QueryRow(ctx, olderSQL, first).Scan(&older); err != nil {
		return fmt.Errorf("count events before sequence %d: %w", first, err)
	}
	if older > 0 {
		a.report.addUnknown(streamEvents, older, "events whose messages have left the stream by age")
	}
	return nil
}

// noteWaiting says what the stream holds beyond the positions. It is not wrong,
// it is not counted yet.
func (a *auditor) noteWaiting() {
	s := &a.report.Stream
	s.Last, s.Through = int64(a.at.info.State.LastSeq), a.at.end
	s.Waiting += max(0, s.Last-s.Through)
	if s.Waiting == 0 {
		return
	}
	a.report.addNote("stream and events: unsettled: %d messages are not read yet; it is read %s: the aggregator is behind or not running, or an older copy of the database was restored: odometer run aggregator reads on by itself",
		s.Waiting, a.at.readUntil())
}

// checkEpochs makes sure that nothing is concluded when an epoch began meanwhile.
func (a *auditor) checkEpochs(ctx context.Context) error {
	now, err := position.Load(ctx, a.options.Pool)
	if err == nil && len(now.Epochs) != len(a.at.epochs) {
		err = errCut
	}
	return err
}

// compareMessages reads the stream in chunks and compares several side by side.
func (a *auditor) compareMessages(ctx context.Context, first int64) error {
	group, ctx := errgroup.WithContext(ctx)
	chunks := make(chan *chunk)
	for range min(max(runtime.GOMAXPROCS(0), 2), 4) {
		group.Go(func() error {
			for c := range chunks {
				if err := a.compareChunk(ctx, c); err != nil {
					return err
				}
			}
			return nil
		})
	}
	group.Go(func() error {
		defer close(chunks)
		return a.readChunks(ctx, first, chunks)
	})
	err := group.Wait()
	if errors.Is(err, ingest.ErrGap) {
		err = fmt.Errorf("%w: run it again", err)
	}
	return err
}

// readChunks reads the stream from a sequence to the snapshot's end, or what of
// that was stored since the scope's time.
func (a *auditor) readChunks(ctx context.Context, from int64, chunks chan<- *chunk) error {
	end := a.at.end
	if from > end {
		return nil
	}
	reader, err := ingest.OpenReader(ctx, a.options.NATS, a.at.stream, ingest.ReadOptions{
		From: from, Since: a.scope.Since, To: end, Subjects: a.subjects(),
	})
	if err != nil {
		return err
	}
	defer reader.Close()
	next, err := reader.Next(ctx)
	if err != nil {
		return err
	}
	if !a.scope.Since.IsZero() { // the first message says where the range begins
		from = end + 1
		if next != nil {
			from = next.Position.Seq
		}
		a.report.Stream.First = from
	}
	for through := from - 1; through < end; {
		c := &chunk{from: through + 1}
		if next, err = a.fill(ctx, reader, next, c); err != nil {
			return err
		}
		through = c.to
		select {
		case chunks <- c:
		case <-ctx.Done():
			return ctx.Err()
		}
		a.progress(Progress{Step: "stream and events", Done: through - from + 1, Total: end - from + 1})
	}
	return nil
}

// fill puts messages into the chunk, beginning with next, until it is full or
// the range ends. It returns the message after them, nil at the range's end.
func (a *auditor) fill(ctx context.Context, reader *ingest.StreamReader, next *ingest.Message, c *chunk) (_ *ingest.Message, err error) {
	for c.to = c.from - 1; next != nil; {
		if len(c.messages) >= chunkMessages || c.bytes >= chunkBytes {
			return next, nil
		}
		if err := a.checkGap(ctx, c.to+1, next.Position.Seq-1); err != nil {
			return nil, err
		}
		c.to = next.Position.Seq
		a.add(c, next)
		if next, err = reader.Next(ctx); err != nil {
			return nil, err
		}
	}
	err = a.checkGap(ctx, c.to+1, a.at.end)
	c.to = a.at.end
	return nil, err
}

// add puts a message into the chunk, if its partition has read it.
func (a *auditor) add(c *chunk, m *ingest.Message) {
	switch seq := m.Position.Seq; {
	case m.Partition < 0:
	case seq > a.at.read(m.Partition):
		c.waiting++ // its partition is read less far than another
	default:
		m.Position = a.at.epochs.Of(seq)
		c.messages = append(c.messages, message{Message: m})
		c.bytes += m.Bytes()
	}
}

// subjects are those of the scope's tenant, nil for all.
func (a *auditor) subjects() []string {
	if a.scope.Tenant == nil {
		return nil
	}
	p := a.at.partitionOf(*a.scope.Tenant)
	return []string{fmt.Sprintf("usage.%d.%s.*", p, *a.scope.Tenant), fmt.Sprintf("adjust.%d.%s.*", p, *a.scope.Tenant)}
}

// checkGap reports sequences of the stream without a message, unless they have
// left the stream by age while it was read.
func (a *auditor) checkGap(ctx context.Context, from, to int64) error {
	if from > to || a.scope.Tenant != nil {
		return nil
	}
	now, err := a.at.stream.Info(ctx, jetstream.WithDeletedDetails(false))
	if err != nil {
		return fmt.Errorf("read the state of stream %s: %w", ingest.StreamName, err)
	}
	from = max(from, int64(now.State.FirstSeq))
	if from > to {
		return nil
	}
	a.report.addDifference(streamEvents, Difference{Kind: StreamGap, Where: fmt.Sprintf("%d to %d", from, to),
		Expected: fmt.Sprintf("%d messages", to-from+1), Found: "none",
		Cause:  "the stream lost messages from its middle: a failed disk, or somebody deleted them",
		Repair: byHand("no repair is defined: what they said is in the events that were counted from them, and nowhere else")})
	return nil
}
