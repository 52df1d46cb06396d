package aggregator

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"odometer/terms"
)

// session reads for the partitions that the lease holds, from where their
// positions stand, until ctx ends or anything fails. It leaves nothing behind
// but what was committed.
func (a *Aggregator) session(ctx context.Context, l *lease, reading func()) error {
	// Before the look at the stream, so that no cut goes unseen in between.
	disconnected := a.NATS.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	defer a.NATS.RemoveStatusListener(disconnected)
	if !a.NATS.IsConnected() {
		return natsError(nats.ErrDisconnected)
	}
	at, err := a.attach(ctx)
	if err != nil {
		return err
	}
	if err := a.standBy(ctx, l, at.partitions); err != nil {
		return err
	}
	if at.places, err = loadPlaces(ctx, a.Pool, loadPlacesSQL); err != nil {
		return err
	}

	group, ctx := errgroup.WithContext(ctx)
	r := a.newReader(at, l.held)
	for _, w := range r.workers {
		if w != nil {
			group.Go(func() error { return w.collect(ctx) })
			group.Go(func() error { return w.commitAll(ctx) })
		}
	}
	group.Go(func() error { return r.run(ctx) })
	group.Go(func() error { return r.poll(ctx) })
	group.Go(func() error { return l.watch(ctx, at.partitions) })
	group.Go(func() error { return a.rollOver(ctx) })
	group.Go(func() error { return untilDisconnected(ctx, disconnected) })
	reading()
	a.Log.Info("aggregator reads", "partitions", len(l.held), "of", at.partitions, "epoch", at.epochs.last().Epoch)
	return group.Wait()
}

// standBy waits until the lease holds a partition.
func (a *Aggregator) standBy(ctx context.Context, l *lease, partitions int) error {
	said := false
	for {
		if _, err := l.take(ctx, partitions); err != nil || len(l.held) > 0 {
			return err
		}
		if !said {
			a.Log.Info("aggregator stands by: other readers hold every partition", "partitions", partitions)
			said = true
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(standbyPause):
		}
	}
}

// untilDisconnected ends the session when the connection to NATS is lost: the
// server that answers afterwards may not hold what this one held.
func untilDisconnected(ctx context.Context, disconnected <-chan nats.Status) error {
	select {
	case <-ctx.Done():
		return nil
	case <-disconnected:
		return natsError(nats.ErrDisconnected)
	}
}

// rolledAtOnce bounds the tenants of one transaction, and so how long a
// partition waits when all periods end with the month.
const rolledAtOnce = 500

// rollOver brings in the periods that time has begun, also of tenants that
// send nothing.
func (a *Aggregator) rollOver(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		now := a.Now()
		due, err := terms.Due(ctx, a.Pool, now, rolledAtOnce)
		if err == nil && len(due) > 0 {
			err = terms.RollOver(ctx, a.Pool, due, now, now)
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if len(due) == rolledAtOnce {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
