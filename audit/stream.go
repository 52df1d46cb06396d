package audit

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"odometer"
	"odometer/ingest"
)

// What is compared at once.
const (
	chunkMessages = 20_000
	chunkBytes    = 8 << 20
)

// chunk is a run of the stream: its messages and the sequences between which
// they lie, both included.
type chunk struct {
	from, to int64
	messages []message
	bytes    int
	waiting  int64 // messages that were not read yet

	strays bool // only events without a message are looked for
}

// message is one message of the stream.
type message struct {
	ingest.Message
	event   odometer.Event
	id      [16]byte // the event's
	reject  *odometer.Rejection
	outcome outcome
}

func (m *message) seq() int64 { return m.Position.Seq }

// compareStream compares each message that was read with what became of it.
func (a *auditor) compareStream(ctx context.Context) error {
	a.step("stream and events")
	var err error
	if a.at, err = loadStanding(ctx, a.Pool, a.Tenant); err != nil {
		return err
	}
	a.report.OpenDead = a.at.dead
	if err := a.look(ctx); err != nil {
		return err
	}
	if len(a.at.epochs) == 0 || len(a.at.places) == 0 {
		a.report.note("stream and events: the stream was never read: start: odometer run aggregator")
		return nil
	}
	ok, err := a.checkStream(ctx)
	if err != nil {
		return err
	}
	if !ok {
		a.report.note("stream and events: unknown: no message of the stream that was read is there to compare with")
		return nil
	}
	state := a.at.info.State
	// A stream that never held a message has no first one, and says 0.
	first := max(1, int64(state.FirstSeq))
	a.report.Stream.First = first
	a.at.end = min(a.at.furthest(), int64(state.LastSeq))
	m, err := a.newMatcher(ctx, first)
	if err != nil {
		return err
	}
	if err := a.readAll(ctx, m, first); err != nil {
		return err
	}
	a.sayWaiting()
	if err := m.lookBack(ctx); err != nil {
		return err
	}
	return a.sameEpochs(ctx)
}

// sayWaiting says what the stream holds beyond the positions: it is not wrong,
// it is not there yet.
func (a *auditor) sayWaiting() {
	s := &a.report.Stream
	s.Last, s.Through = int64(a.at.info.State.LastSeq), a.at.end
	s.Waiting += max(0, s.Last-s.Through)
	if s.Waiting == 0 {
		return
	}
	a.report.note("stream and events: unsettled: %d messages are not read yet; it is read %s: the aggregator is behind or not running, or an older copy of the database was restored: odometer run aggregator reads on by itself",
		s.Waiting, a.at.readUntil())
}

// sameEpochs makes sure that nothing was concluded from a history that was cut
// meanwhile.
func (a *auditor) sameEpochs(ctx context.Context) error {
	now, err := loadStanding(ctx, a.Pool, nil)
	if err != nil {
		return err
	}
	if len(now.epochs) != len(a.at.epochs) {
		return errCut
	}
	return nil
}

// readAll reads the stream in chunks and compares several side by side.
func (a *auditor) readAll(ctx context.Context, m *matcher, from int64) error {
	group, comparing := errgroup.WithContext(ctx)
	chunks := make(chan *chunk)
	for range min(max(runtime.GOMAXPROCS(0), 2), 4) {
		group.Go(func() error {
			for c := range chunks {
				if err := m.compare(comparing, c); err != nil {
					return err
				}
			}
			return nil
		})
	}
	group.Go(func() error {
		defer close(chunks)
		return a.read(comparing, from, a.at.end, a.Since, func(c *chunk) error {
			select {
			case chunks <- c:
				return nil
			case <-comparing.Done():
				return comparing.Err()
			}
		})
	})
	return group.Wait()
}

// read hands over the stream from one sequence to another in chunks, or what of
// that was stored since a time.
func (a *auditor) read(ctx context.Context, from, to int64, since time.Time, each func(*chunk) error) error {
	if from > to {
		return nil
	}
	stream, err := ingest.OpenReader(ctx, a.NATS, a.at.stream, ingest.ReadOptions{From: from, Since: since, To: to, Subjects: a.subjects()})
	if err != nil {
		return err
	}
	defer stream.Close()
	sought := !since.IsZero() // the first message says where the range begins
	began := int64(0)
	for through := from - 1; through < to; {
		c := &chunk{from: through + 1, to: through}
		if through, err = a.fill(ctx, stream, c, through, to, &sought); err != nil {
			return err
		}
		if began == 0 {
			began = c.from
		}
		if err := each(c); err != nil {
			return err
		}
		a.progress(Progress{Step: "stream and events", Done: through - began + 1, Total: to - began + 1})
	}
	return nil
}

// fill reads until the chunk is full, to is reached or the stream is at its
// end, and returns the sequence through which was read.
func (a *auditor) fill(ctx context.Context, stream *ingest.StreamReader, c *chunk, through, to int64, sought *bool) (int64, error) {
	for through < to && len(c.messages) < chunkMessages && c.bytes < chunkBytes {
		m, err := stream.Next(ctx)
		if err != nil {
			return through, err
		}
		seq := to + 1
		if m != nil {
			seq = m.Position.Seq
		}
		if *sought {
			*sought, c.from, through = false, seq, seq-1
			a.report.Stream.First = seq
		}
		if err := a.gap(ctx, through+1, min(seq, to+1)-1); err != nil {
			return through, err
		}
		through = min(seq, to)
		c.to = through
		if m != nil {
			a.add(c, m)
		}
	}
	return through, nil
}

// add takes a message in, if its partition has read it.
func (a *auditor) add(c *chunk, m *ingest.Message) {
	seq := m.Position.Seq
	if m.Partition >= 0 && seq > a.at.through(m.Partition) {
		c.waiting++ // of a partition that is read less far than another
	}
	if m.Partition < 0 || seq > a.at.through(m.Partition) {
		return
	}
	m.Position.Epoch = a.at.of(seq)
	c.messages = append(c.messages, message{Message: *m})
	c.bytes += m.Bytes()
}

// subjects are those of the tenant asked for, nil for all.
func (a *auditor) subjects() []string {
	if a.Tenant == nil {
		return nil
	}
	p := a.at.partitionOf(*a.Tenant)
	return []string{fmt.Sprintf("usage.%d.%s.*", p, *a.Tenant), fmt.Sprintf("adjust.%d.%s.*", p, *a.Tenant)}
}

// gap says that sequences of the stream have no message, unless they have aged
// out while it was read.
func (a *auditor) gap(ctx context.Context, from, to int64) error {
	if from > to || a.Tenant != nil {
		return nil
	}
	now, err := a.at.stream.Info(ctx, jetstream.WithDeletedDetails(false))
	if err != nil {
		return fmt.Errorf("look at stream %s: %w", ingest.StreamName, err)
	}
	from = max(from, int64(now.State.FirstSeq))
	if from > to {
		return nil
	}
	a.report.differs(streamEvents, Difference{Kind: StreamGap, Where: fmt.Sprintf("%d to %d", from, to),
		Expected: fmt.Sprintf("%d messages", to-from+1), Found: "none",
		Cause:  "the stream lost messages from its middle: a failed disk, or somebody deleted them",
		Repair: byHand("no repair is defined: what they said is in the events that were counted from them, and nowhere else")})
	return nil
}

// find returns the message at a sequence, nil when the chunk has none.
func (c *chunk) find(seq int64) *message {
	i := int(seq - c.from)
	if i < len(c.messages) && i >= 0 && c.messages[i].seq() == seq {
		return &c.messages[i]
	}
	i, ok := slices.BinarySearchFunc(c.messages, seq, func(m message, seq int64) int { return int(m.seq() - seq) })
	if !ok {
		return nil
	}
	return &c.messages[i]
}
