// Package replay reads the stream again and restores the events that are
// missing. It never moves a position and writes no batch: to the record of who
// read what, a restored event was there all the time.
//
// What a message was the first time decides what it is now:
//
//   - a dead letter, in whatever state, is left alone; only a retry classifies it
//     again. The event of one that was retried is restored where the retry put it;
//   - a message whose event is stored, or whose key an event has, is there;
//   - the rest is classified by its own position, as the reader does it, so each
//     event lies in the period where it belonged. A correction that counted when
//     it was read counts again, one that was refused is refused again (see
//     restore.go): what the balance happens to be while events are missing
//     decides nothing.
//
// The messages of a partition are applied in order. A transaction that restores
// events sets their counters to the sum of their events and of what retention
// removed, under the partition's lock, so that a counter that is wrong becomes
// right and one that is right stays right. Messages above the partition's
// position are the reader's, not the replay's; it may run beside any number of
// readers, and beside itself.
//
// It keeps no state: whatever ends it, another one goes on from where it came,
// or from anywhere before.
package replay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"odometer"
	"odometer/aggregator/apply"
	"odometer/aggregator/position"
	"odometer/ingest"
)

// Options say what is replayed. With neither Since nor From it is everything
// that the stream still holds.
type Options struct {
	Pool     *pgxpool.Pool
	NATS     *nats.Conn
	Since    *time.Time // the stream's stored time
	From     int64      // sequence; 0 for none
	Tenant   *uuid.UUID // nil for all
	DryRun   bool       // only report what would be done
	Batch    int        // messages in one step; 0 for DefaultBatch
	Progress func(Result)
}

// Bounds of one step.
const (
	DefaultBatch      = 5000
	maxBatchBytes     = 8 << 20
	deadLettersAtOnce = 500
	finishTime        = time.Minute // for the current step once ctx has ended
)

// Result is what a replay found and did.
type Result struct {
	Read        int64 `json:"read"`         // messages of the stream
	Events      int64 `json:"events"`       // of them, stored events
	Duplicates  int64 `json:"duplicates"`   // repeats of events
	DeadLetters int64 `json:"dead_letters"` // dead letters before
	Applied     int64 `json:"applied"`      // events that were missing
	NewDead     int64 `json:"dead"`         // messages that became dead letters now
	Unread      int64 `json:"unread"`       // not read by the aggregator yet, so left to it

	First   int64 `json:"first_seq"`   // sequence where it began
	Through int64 `json:"through_seq"` // and through which it is done
	Last    int64 `json:"last_seq"`    // and where the stream ended

	Dead     map[odometer.Reason]int64 `json:"dead_by_reason"`
	Negative []Shortfall               `json:"negative"` // counters that could not be made right
}

// Shortfall is a counter whose events sum to less than zero: corrections are
// there, and what they corrected is not. The counter is zero.
type Shortfall struct {
	Tenant      uuid.UUID `json:"tenant_id"`
	Agent       string    `json:"agent"`
	PeriodStart time.Time `json:"period_start"`
	Sum         int64     `json:"sum"`
}

// ErrUnfit says that this stream cannot be replayed into this database; the text
// says what to do.
var ErrUnfit = errors.New("cannot replay")

// replay is one run.
type replay struct {
	options    Options
	stream     jetstream.Stream
	state      position.State
	firstTime  time.Time // of the oldest message that the stream still holds
	partitions []*partition
	lock       apply.CorrectionLock
	counters   counterRebuild
	restored   map[uuid.UUID]uint64 // in a dry run: the events that it would have restored
	done       Result
}

// partition is one partition's way through a replay.
type partition struct {
	applier *apply.Applier
	begin   odometer.Position   // where the partition stood when the replay began
	next    []apply.Item        // read, and not applied yet
	bytes   int                 // of them
	retried []odometer.Position // dead letters whose events are to be restored
}

// Run replays. What it returns was done, also beside an error; when ctx ends,
// everything up to Through is done.
func Run(ctx context.Context, o Options) (Result, error) {
	if o.Batch == 0 {
		o.Batch = DefaultBatch
	}
	if o.Progress == nil {
		o.Progress = func(Result) {}
	}
	r := &replay{options: o, restored: map[uuid.UUID]uint64{}}
	r.done.Dead = map[odometer.Reason]int64{}
	r.counters.rebuilt = map[counterKey]bool{}
	r.counters.negative = map[counterKey]int64{}
	defer r.lock.Release()
	if err := r.open(ctx); err != nil {
		return r.done, err
	}
	if err := r.openPartitions(ctx); err != nil {
		return r.done, err
	}
	err := r.read(ctx)
	r.done.Through = r.through()
	r.done.Negative = r.counters.shortfalls()
	return r.done, err
}

// open finds the stream and makes sure that the positions are positions in it.
func (r *replay) open(ctx context.Context) error {
	js, err := jetstream.New(r.options.NATS)
	if err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	r.stream, err = js.Stream(ctx, ingest.StreamName)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("%w: there is no stream %s: check --nats-url", ErrUnfit, ingest.StreamName)
	}
	if err != nil {
		return fmt.Errorf("find stream %s: %w", ingest.StreamName, err)
	}
	if r.state, err = position.Load(ctx, r.options.Pool); err != nil {
		return err
	}
	if len(r.state.Epochs) == 0 || len(r.state.Partitions) == 0 {
		return fmt.Errorf("%w: %w", ErrUnfit, position.ErrNeverRead)
	}
	info, err := r.stream.Info(ctx) // after the positions: see State.Intact
	if err != nil {
		return fmt.Errorf("read the state of stream %s: %w", ingest.StreamName, err)
	}
	return r.compare(ctx, info)
}

func (r *replay) compare(ctx context.Context, info *jetstream.StreamInfo) error {
	intact, err := r.state.Intact(ctx, r.options.NATS, info)
	if err != nil {
		return err
	}
	last := r.state.Epochs.Last().Epoch
	for _, p := range r.state.Partitions {
		intact = intact && p.At.Epoch == last
	}
	if !intact {
		return fmt.Errorf("%w: the stream is not the one that was read: it lost its tail or was created again: let an aggregator find that out first (odometer run aggregator), then run this again",
			ErrUnfit)
	}
	r.firstTime = info.State.FirstTime
	r.done.First = max(int64(info.State.FirstSeq), r.options.From)
	r.done.Last = min(r.state.Furthest(), int64(info.State.LastSeq))
	r.done.Through = r.done.First - 1
	if tenant := r.options.Tenant; tenant != nil {
		r.done.Last = min(r.done.Last, r.state.Partitions[odometer.PartitionOf(*tenant, len(r.state.Partitions))].At.Seq)
	}
	return nil
}

// Only dead letters of messages that the stream still holds: retention may have
// removed the events of older ones. A replay that begins later takes all that was
// retried after it, too: another one may have ended before it came there.
const retriedSQL = `
select d.stream_epoch, d.stream_seq, d.tenant_id
from dead_letters d
where d.state = 'retried'
  and d.tenant_id is not null
  and ($1::uuid is null or d.tenant_id = $1)
  and d.received_at >= $2
  and ($3::timestamptz is null or d.received_at >= $3 or d.decided_at >= $3)
  and (d.stream_seq >= $4 or d.retry_seq >= $4)
order by d.stream_epoch, d.stream_seq`

// openPartitions prepares each partition.
func (r *replay) openPartitions(ctx context.Context) error {
	o := &r.options
	for n, p := range r.state.Partitions {
		r.partitions = append(r.partitions, &partition{begin: p.At, applier: &apply.Applier{
			Pool: o.Pool, Partition: n, Since: r.firstTime.Add(-odometer.MaxAge), Now: time.Now, DryRun: o.DryRun,
		}})
	}
	since := o.Since
	if o.From > 0 {
		since = nil
	}
	rows, _ := o.Pool.Query(ctx, retriedSQL, o.Tenant, r.firstTime, since, o.From)
	var at odometer.Position
	var tenant uuid.UUID
	_, err := pgx.ForEachRow(rows, []any{&at.Epoch, &at.Seq, &tenant}, func() error {
		p := r.partitions[odometer.PartitionOf(tenant, len(r.partitions))]
		p.retried = append(p.retried, at)
		return nil
	})
	if err != nil {
		return fmt.Errorf("find retried dead letters: %w", err)
	}
	return nil
}

// read takes the stream's messages in order, to the last that any aggregator
// had read when the replay began. It stops between two steps.
func (r *replay) read(ctx context.Context) error {
	for _, p := range r.partitions {
		if err := r.restoreDeadLetters(ctx, p); err != nil {
			return err
		}
	}
	if r.done.First <= r.done.Last {
		if err := r.readStream(ctx); err != nil {
			return err
		}
	}
	for _, p := range r.partitions {
		if err := r.flush(ctx, p); err != nil {
			return err
		}
	}
	r.done.Through = max(r.done.Last, r.done.Through)
	r.options.Progress(r.done)
	return ctx.Err()
}

const deadLettersSQL = `
select ` + apply.DeadLetterColumns + `
from dead_letters d
join unnest($1::integer[], $2::bigint[]) as w (stream_epoch, stream_seq) using (stream_epoch, stream_seq)
order by d.stream_epoch, d.stream_seq`

// restoreDeadLetters restores the events of retried dead letters. They come
// before all that is read: a key that one of them has was free until its retry,
// so no message with that key ever counted, wherever it lies in the stream.
func (r *replay) restoreDeadLetters(ctx context.Context, p *partition) error {
	for some := range slices.Chunk(p.retried, deadLettersAtOnce) {
		if err := ctx.Err(); err != nil {
			return err
		}
		var epochs []int32
		var seqs []int64
		for _, at := range some {
			epochs, seqs = append(epochs, at.Epoch), append(seqs, at.Seq)
		}
		rows, _ := r.options.Pool.Query(ctx, deadLettersSQL, epochs, seqs)
		items, err := apply.CollectDeadLetters(rows)
		if err != nil {
			return err
		}
		if err := r.apply(ctx, p, items); err != nil {
			return err
		}
	}
	return nil
}

func (r *replay) readStream(ctx context.Context) error {
	options := ingest.ReadOptions{From: r.done.First, To: r.done.Last}
	if tenant := r.options.Tenant; tenant != nil {
		p := odometer.PartitionOf(*tenant, len(r.partitions))
		for _, kind := range []string{"usage", "adjust"} {
			options.Subjects = append(options.Subjects, fmt.Sprintf("%s.%d.%s.*", kind, p, *tenant))
		}
	}
	if r.options.Since != nil && r.options.From == 0 {
		options.Since = *r.options.Since
	}
	stream, err := ingest.OpenReader(ctx, r.options.NATS, r.stream, options)
	if err != nil {
		return err
	}
	defer stream.Close()
	for {
		m, err := stream.Next(ctx)
		if err != nil || m == nil {
			if other := r.sameStream(ctx); other != nil {
				return other
			}
			return err
		}
		if err := r.take(ctx, m); err != nil {
			return err
		}
	}
}

// sameStream makes sure that the stream that was read is still the one that the
// positions are of.
func (r *replay) sameStream(ctx context.Context) error {
	info, err := r.stream.Info(ctx)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("read the state of stream %s: %w", ingest.StreamName, err)
	case !position.Created(info).Equal(r.state.Epochs.Last().StreamCreated):
		return fmt.Errorf("%w: the stream was created again meanwhile", ErrUnfit)
	}
	return nil
}

// take hands a message to its partition.
func (r *replay) take(ctx context.Context, m *ingest.Message) error {
	seq := m.Position.Seq
	if m.Partition < 0 || m.Partition >= len(r.partitions) {
		return fmt.Errorf("%w: message %d has subject %q, which stream %s cannot have made: check its subject transform",
			ErrUnfit, seq, m.Subject, ingest.StreamName)
	}
	r.done.Read++
	r.done.Through = seq
	p := r.partitions[m.Partition]
	if seq > p.begin.Seq {
		r.done.Unread++
		return nil
	}
	m.Position = r.state.Epochs.Of(seq)
	p.next = append(p.next, apply.Decode(m))
	if p.bytes += m.Bytes(); len(p.next) < r.options.Batch && p.bytes < maxBatchBytes {
		return nil
	}
	return r.flush(ctx, p)
}

// flush applies the messages that a partition has gathered.
func (r *replay) flush(ctx context.Context, p *partition) error {
	if err := ctx.Err(); err != nil || len(p.next) == 0 {
		return err
	}
	finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTime)
	defer cancel()
	if err := r.apply(finish, p, p.next); err != nil {
		return err
	}
	p.next, p.bytes = nil, 0
	shown := r.done
	shown.Through = r.through()
	r.options.Progress(shown)
	return nil
}

// through is the sequence up to which everything is done.
func (r *replay) through() int64 {
	through := r.done.Through
	for _, p := range r.partitions {
		if len(p.next) > 0 {
			through = min(through, p.next[0].Event.Position.Seq-1)
		}
	}
	return max(through, r.done.First-1)
}
