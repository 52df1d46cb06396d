package aggregator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"odometer"
	"odometer/aggregator/position"
	"odometer/billing"
	"odometer/ingest"
)

// attached is a stream that is known to continue what was read of it.
type attached struct {
	stream     *ingest.Stream
	partitions int
	state      position.State
	lastDead   odometer.Position
	firstTime  time.Time // of the oldest message that the stream still holds
}

// attachConnected is attach as long as the connection lasts: an answer that was
// on its way when it broke would be waited for in vain.
func (a *Aggregator) attachConnected(ctx context.Context) (at *attached, err error) {
	disconnected := a.NATS.StatusChanged(disconnectedStatus...)
	defer a.NATS.RemoveStatusListener(disconnected)
	group, ctx := errgroup.WithContext(ctx)
	ctx, done := context.WithCancel(ctx)
	group.Go(func() error { return untilDisconnected(ctx, disconnected) })
	at, err = a.attach(ctx)
	done()
	if lost := group.Wait(); lost != nil {
		return nil, lost
	}
	return at, err
}

// attach creates or checks the stream and makes sure that it is the one whose
// positions we hold. If it lost its tail or was created again, a new epoch
// begins (see package position).
func (a *Aggregator) attach(ctx context.Context) (*attached, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	stream, err := ingest.EnsureStream(ctx, a.js, a.Stream)
	if err != nil {
		return nil, natsError(err)
	}
	a.logDifferences(stream)
	if err := a.addSeries(ctx); err != nil {
		return nil, err
	}
	at := &attached{stream: stream, partitions: stream.Partitions}
	if err := a.load(ctx, at); err != nil {
		return nil, err
	}
	// After the positions: see State.Intact.
	info, err := stream.Info(ctx)
	if err != nil {
		return nil, natsError(fmt.Errorf("read the state of stream %s: %w", ingest.StreamName, err))
	}
	at.firstTime = info.State.FirstTime
	intact, err := at.state.Intact(ctx, a.NATS, info)
	if err != nil {
		return nil, err
	}
	if !intact {
		if err := a.beginEpoch(ctx, at, info); err != nil {
			return nil, err
		}
	}
	a.logUnread(at, info)
	return at, nil
}

// load reads epochs and positions, and creates them for a stream never read.
func (a *Aggregator) load(ctx context.Context, at *attached) (err error) {
	for range 2 {
		if at.state, err = position.Load(ctx, a.Pool); err != nil {
			return err
		}
		if len(at.state.Epochs) > 0 {
			break
		}
		if err := position.Create(ctx, a.Pool, position.Created(at.stream.CachedInfo()), at.partitions); err != nil {
			return err
		}
	}
	if at.lastDead, err = a.loadLastDead(ctx); err != nil {
		return err
	}
	for _, p := range at.state.Partitions {
		if p.At.Epoch != at.state.Epochs.Last().Epoch {
			return fmt.Errorf("load the positions: an epoch began meanwhile: %w", position.ErrMoved)
		}
	}
	if n := len(at.state.Partitions); n != at.partitions {
		return fmt.Errorf("%w: the database counts by %d partitions, but stream %s has %d, which would split tenants: "+
			"restore the stream, or create it with --partitions %d", ErrUnfit, n, ingest.StreamName, at.partitions, n)
	}
	return nil
}

const lastDeadSQL = `
select stream_epoch, stream_seq
from dead_letters
order by stream_epoch desc, stream_seq desc
limit 1`

// loadLastDead is the last position of which a message became a dead letter;
// zero for none. No message after it is a dead letter yet.
func (a *Aggregator) loadLastDead(ctx context.Context) (last odometer.Position, err error) {
	rows, _ := a.Pool.Query(ctx, lastDeadSQL)
	_, err = pgx.ForEachRow(rows, []any{&last.Epoch, &last.Seq}, func() error { return nil })
	if err != nil {
		return last, fmt.Errorf("find the last dead letter: %w", err)
	}
	return last, nil
}

func (a *Aggregator) beginEpoch(ctx context.Context, at *attached, info *jetstream.StreamInfo) error {
	readThrough := at.state.Furthest()
	cut, err := at.state.BeginEpoch(ctx, a.Pool, a.NATS, info)
	if err != nil {
		return err
	}
	a.Log.Error("the stream is not what was read of it: it lost its tail or was created again; a new epoch begins, nothing counted is taken back",
		"epoch", at.state.Epochs.Last().Epoch, "intact_through", cut.Seq, "stream_last", info.State.LastSeq, "read_through", readThrough)
	return nil
}

// addSeries shows each agent's and action's metric from the start.
func (a *Aggregator) addSeries(ctx context.Context) error {
	catalogue, err := billing.LoadCatalogue(ctx, a.Pool)
	if err != nil && !errors.Is(err, billing.ErrNoCatalogue) {
		return err
	}
	a.Metrics.addSeries(&catalogue)
	return nil
}

// logDifferences names, once, where the stream is not as configured.
func (a *Aggregator) logDifferences(s *ingest.Stream) {
	for _, d := range s.Differences {
		if !a.logged[d] {
			a.logged[d] = true
			a.Log.Warn("the stream differs from its settings; it stays as it is", "difference", d)
		}
	}
}

// logUnread alarms when messages left the stream by age before they were read:
// what they were is unknown, and no replay brings them back.
func (a *Aggregator) logUnread(at *attached, info *jetstream.StreamInfo) {
	for _, p := range at.state.Partitions {
		gone := int64(info.State.FirstSeq) - p.At.Seq - 1
		empty := info.State.Msgs == 0
		if gone > 0 && p.CompleteUntil != nil && (empty || info.State.FirstTime.After(*p.CompleteUntil)) {
			a.Log.Error("messages left the stream unread: usage may be lost; read more often or raise --stream-max-age",
				"partition", p.Number, "messages_at_most", gone, "read_until", p.CompleteUntil, "stream_begins", info.State.FirstTime)
		}
	}
}
