package aggregator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"odometer"
	"odometer/ingest"
)

// A replay reads the stream again and puts into the books what is missing
// there. It never moves a position and books no batch: to the accounts of who
// read what, a restored event was there all the time.
//
// What a message was the first time decides what it is now:
//
//   - a dead letter, in whatever state, is left alone; only a retry judges it
//     again. The event of one that was retried is restored where the retry put
//     it;
//   - a message whose event is stored, or whose key an event has, is there;
//   - the rest is judged by its own position, as the reader does it, so each
//     event lies in the period where it belonged. A correction that counted
//     when it was read counts again, one that was refused is refused again
//     (see replay_fate.go): what the balance happens to be while the books are
//     incomplete decides nothing.
//
// The messages of a partition are applied in order. A transaction that restores
// events sets their counters to the sum of their events and of what retention
// removed, under the partition's lock, so that a counter that is wrong becomes
// right and one that is right stays right. Messages above the partition's
// position are the reader's, not the replay's; it may run beside any number of
// readers, and beside itself.
//
// It keeps nothing: whatever ends it, another one goes on from where it came,
// or from anywhere before.

// ReplayOptions say what is replayed. With neither Since nor From it is
// everything that the stream still holds.
type ReplayOptions struct {
	Pool     *pgxpool.Pool
	NATS     *nats.Conn
	Since    *time.Time // the stream's stored time
	From     int64      // sequence; 0 for none
	Tenant   *uuid.UUID // nil for all
	DryRun   bool       // only tell what would be done
	Batch    int        // messages in one step; 0 for DefaultBatchSize
	Progress func(Replayed)
}

// Replayed is what a replay found and did.
type Replayed struct {
	Read        int64 // messages of the stream
	Events      int64 // of them, stored events
	Duplicates  int64 // repeats of events
	DeadLetters int64 // dead letters before
	Applied     int64 // events that were missing
	NewDead     int64 // messages that became dead letters now
	Unread      int64 // not read by the aggregator yet, so left to it

	First, Through, Last int64 // sequences: where it began, came and ends
	Dead                 map[odometer.Reason]int64
	Negative             []Shortfall // counters that could not be made right
}

// Shortfall is a counter whose events sum to less than zero: corrections are
// there, and what they corrected is not. It stands at zero.
type Shortfall struct {
	Tenant      uuid.UUID
	Agent       string
	PeriodStart time.Time
	Sum         int64
}

// ErrReplayUnfit says that the stream cannot be replayed into these books as
// they are; the text says what to do.
var ErrReplayUnfit = fmt.Errorf("%w: cannot replay", ErrUnfit)

// replay is one run.
type replay struct {
	ReplayOptions
	a     *Aggregator
	at    *attached
	lanes []*lane // by partition
	hold  hold
	sums  sums
	would map[uuid.UUID]uint64 // in a dry run: the events that it would have restored
	done  Replayed
}

// Replay replays. What it returns was done, also beside an error; when ctx
// ends, everything up to Through is done.
func Replay(ctx context.Context, o ReplayOptions) (Replayed, error) {
	if o.Batch == 0 {
		o.Batch = DefaultBatchSize
	}
	if o.Progress == nil {
		o.Progress = func(Replayed) {}
	}
	r := &replay{ReplayOptions: o, a: &Aggregator{Options: Options{Pool: o.Pool, NATS: o.NATS, Now: time.Now}}, would: map[uuid.UUID]uint64{}}
	r.done.Dead = map[odometer.Reason]int64{}
	r.sums.known = map[counterKey]bool{}
	r.sums.negative = map[counterKey]int64{}
	defer r.hold.release()
	if err := r.open(ctx); err != nil {
		return r.done, err
	}
	if err := r.openLanes(ctx); err != nil {
		return r.done, err
	}
	err := r.read(ctx)
	r.done.Through = r.through()
	r.done.Negative = r.sums.shortfalls()
	return r.done, err
}

// open finds the stream and makes sure that the positions are places in it.
func (r *replay) open(ctx context.Context) error {
	js, err := jetstream.New(r.NATS)
	if err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	stream, err := js.Stream(ctx, ingest.StreamName)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("%w: there is no stream %s: check --nats-url", ErrReplayUnfit, ingest.StreamName)
	}
	if err != nil {
		return natsError(fmt.Errorf("look for stream %s: %w", ingest.StreamName, err))
	}
	r.at = &attached{stream: &ingest.Stream{Stream: stream}, nc: r.NATS}
	if r.at.epochs, err = loadEpochs(ctx, r.Pool); err != nil {
		return err
	}
	if r.at.places, err = loadPlaces(ctx, r.Pool, loadPlacesSQL); err != nil {
		return err
	}
	r.at.partitions = len(r.at.places)
	if len(r.at.epochs) == 0 || r.at.partitions == 0 {
		return fmt.Errorf("%w: no aggregator has read the stream yet: start one with: odometer run aggregator", ErrReplayUnfit)
	}
	// After the positions, as a reader does.
	info, err := stream.Info(ctx)
	if err != nil {
		return natsError(fmt.Errorf("look at stream %s: %w", ingest.StreamName, err))
	}
	return r.fits(ctx, info)
}

func (r *replay) fits(ctx context.Context, info *jetstream.StreamInfo) error {
	intact, err := r.at.intact(ctx, info)
	if err != nil {
		return err
	}
	last := r.at.epochs.last().Epoch
	for _, p := range r.at.places {
		intact = intact && p.Epoch == last
	}
	if !intact {
		return fmt.Errorf("%w: the stream is not the one that was read: it lost its tail or was made anew: let an aggregator find that out first (odometer run aggregator), then run this again",
			ErrReplayUnfit)
	}
	r.at.firstTime = info.State.FirstTime
	r.done.First = max(int64(info.State.FirstSeq), r.From)
	r.done.Last = min(furthest(r.at.places), int64(info.State.LastSeq))
	r.done.Through = r.done.First - 1
	if r.Tenant != nil {
		r.done.Last = min(r.done.Last, r.at.places[odometer.PartitionOf(*r.Tenant, r.at.partitions)].Seq)
	}
	return nil
}
