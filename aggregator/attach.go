package aggregator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"odometer"
	"odometer/billing"
	"odometer/ingest"
)

// attached is a stream that is known to continue what was read of it.
type attached struct {
	stream     *ingest.Stream
	nc         *nats.Conn
	partitions int
	epochs     epochs
	places     map[int]place
	lastDead   odometer.Position
	firstTime  time.Time // of the oldest message that the stream still holds
}

// attach creates or checks the stream and makes sure that it is the one whose
// positions we hold: the same creation time, no shorter than we read it, and
// at each position the message that we read there. Anything else means that it
// lost its tail or was made anew; then a new epoch begins (see epoch.go).
func (a *Aggregator) attach(ctx context.Context) (*attached, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	stream, err := ingest.EnsureStream(ctx, a.js, a.Stream)
	if err != nil {
		return nil, natsError(err)
	}
	a.sayDifferences(stream)
	if err := a.knowCatalogue(ctx); err != nil {
		return nil, err
	}
	at := &attached{stream: stream, nc: a.NATS, partitions: stream.Partitions}
	if err := a.load(ctx, at, stream.CachedInfo()); err != nil {
		return nil, err
	}
	// After the positions: another reader may advance them at any moment, and
	// what it has read since the look would seem to be a lost tail.
	info, err := stream.Info(ctx)
	if err != nil {
		return nil, natsError(fmt.Errorf("look at stream %s: %w", ingest.StreamName, err))
	}
	at.firstTime = info.State.FirstTime
	intact, err := at.intact(ctx, info)
	if err != nil {
		return nil, err
	}
	if !intact {
		if err := a.beginEpoch(ctx, at, info); err != nil {
			return nil, err
		}
	}
	a.sayUnread(at, info)
	return at, nil
}

// knowCatalogue shows each agent's and action's metric from the start.
func (a *Aggregator) knowCatalogue(ctx context.Context) error {
	catalogue, err := billing.LoadCatalogue(ctx, a.Pool)
	if err != nil && !errors.Is(err, billing.ErrNoCatalogue) {
		return err
	}
	a.Metrics.know(&catalogue)
	return nil
}

// keepKnowing shows what a later catalogue brings, also before it is used.
func (a *Aggregator) keepKnowing(ctx context.Context) error {
	tick := time.NewTicker(knowEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := a.knowCatalogue(ctx); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

const knowEvery = 5 * time.Second

// sayDifferences names, once, where the stream is not as configured.
func (a *Aggregator) sayDifferences(s *ingest.Stream) {
	for _, d := range s.Differences {
		if !a.said[d] {
			a.said[d] = true
			a.Log.Warn("the stream differs from its settings; it stays as it is", "difference", d)
		}
	}
}

// load reads epochs and positions, and makes them for a stream never read.
func (a *Aggregator) load(ctx context.Context, at *attached, info *jetstream.StreamInfo) error {
	for range 2 {
		var err error
		if at.epochs, err = loadEpochs(ctx, a.Pool); err != nil {
			return err
		}
		if at.places, err = loadPlaces(ctx, a.Pool, loadPlacesSQL); err != nil {
			return err
		}
		if len(at.epochs) > 0 {
			break
		}
		if err := makePlaces(ctx, a.Pool, created(info), at.partitions); err != nil {
			return err
		}
	}
	var err error
	if at.lastDead, err = loadLastDead(ctx, a.Pool); err != nil {
		return err
	}
	for _, p := range at.places {
		if p.Epoch != at.epochs.last().Epoch {
			return fmt.Errorf("load the positions: an epoch began meanwhile: %w", errMoved)
		}
	}
	if n := len(at.places); n != at.partitions {
		return fmt.Errorf("%w: the database counts by %d partitions, but stream %s deals to %d, which would split tenants: "+
			"restore the stream, or create it with --partitions %d", ErrUnfit, n, ingest.StreamName, at.partitions, n)
	}
	return nil
}

// created is the stream's time of creation as precisely as Postgres keeps it.
func created(info *jetstream.StreamInfo) time.Time {
	return info.Created.UTC().Truncate(time.Microsecond)
}

// intact reports whether the stream still continues what was read of it.
func (at *attached) intact(ctx context.Context, info *jetstream.StreamInfo) (bool, error) {
	if !at.epochs.last().StreamCreated.Equal(created(info)) {
		return false, nil
	}
	for _, p := range at.places {
		same, err := at.holds(ctx, info, p.Seq, p.storedAt)
		if err != nil || !same {
			return false, err
		}
	}
	return true, nil
}

// holds reports whether the stream's message at seq is the one that was stored
// at the given time. One that has aged out may well have been.
func (at *attached) holds(ctx context.Context, info *jetstream.StreamInfo, seq int64, storedAt *time.Time) (bool, error) {
	if seq > int64(info.State.LastSeq) {
		return false, nil
	}
	if seq < int64(info.State.FirstSeq) || storedAt == nil {
		return true, nil
	}
	stored, err := ingest.StoredTime(ctx, at.nc, seq)
	if err != nil || stored == nil {
		return false, natsError(err)
	}
	return stored.Truncate(time.Microsecond).Equal(*storedAt), nil
}

// sayUnread alarms when messages left the stream by age before they were read:
// what they were is unknown, and no replay brings them back.
func (a *Aggregator) sayUnread(at *attached, info *jetstream.StreamInfo) {
	for partition, p := range at.places {
		gone := int64(info.State.FirstSeq) - p.Seq - 1
		empty := info.State.Msgs == 0
		if gone > 0 && p.completeUntil != nil && (empty || info.State.FirstTime.After(*p.completeUntil)) {
			a.Log.Error("messages left the stream unread: usage may be lost; read more often or raise --stream-max-age",
				"partition", partition, "messages_at_most", gone, "read_until", p.completeUntil, "stream_begins", info.State.FirstTime)
		}
	}
}
