package aggregator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"odometer"
	"odometer/billing"
)

// session reads for the partitions that the lease holds, from where their
// positions stand, until ctx ends or anything fails. It leaves nothing behind
// but what was committed.
func (a *Aggregator) session(ctx context.Context, l *lease, reading func()) error {
	// Before the stream is checked, so that no cut goes unseen in between.
	disconnected := a.NATS.StatusChanged(disconnectedStatus...)
	defer a.NATS.RemoveStatusListener(disconnected)
	if !a.NATS.IsConnected() {
		return natsError(nats.ErrDisconnected)
	}
	at, err := a.attachConnected(ctx)
	if err != nil {
		return err
	}
	// Only positions that attach has compared with the stream may be read from;
	// what another reader did meanwhile is found by the compare-and-set.
	if waited, err := a.standBy(ctx, l, at.partitions); err != nil || waited {
		return cmp.Or(err, errPartitionFreed)
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
	group.Go(func() error {
		return repeat(ctx, time.Second, func() error { a.rollOver(ctx, at.partitions); return nil })
	})
	// What a later catalogue brings is shown also before it is used.
	group.Go(func() error { return repeat(ctx, addSeriesEvery, func() error { return a.addSeries(ctx) }) })
	group.Go(func() error { return untilDisconnected(ctx, disconnected) })
	reading()
	a.Log.Info("aggregator reads", "partitions", len(l.held), "of", at.partitions, "epoch", at.state.Epochs.Last().Epoch)
	return group.Wait()
}

const addSeriesEvery = 5 * time.Second

// repeat calls do until ctx ends or it fails.
func repeat(ctx context.Context, every time.Duration, do func() error) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := do(); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// standBy waits until the lease holds a partition.
func (a *Aggregator) standBy(ctx context.Context, l *lease, partitions int) (waited bool, err error) {
	for {
		if _, err := l.acquire(ctx, partitions); err != nil || len(l.held) > 0 {
			return waited, err
		}
		if !waited {
			a.Log.Info("aggregator stands by: other readers hold every partition", "partitions", partitions)
			waited = true
		}
		if err := odometer.Sleep(ctx, standbyPause); err != nil {
			return waited, err
		}
	}
}

var disconnectedStatus = []nats.Status{nats.RECONNECTING, nats.CLOSED}

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

// rolledAtOnce bounds the tenants of one query, and so how long a partition
// waits when all periods end with the month.
const rolledAtOnce = 500

// rollOver creates the periods that time has begun, also of tenants that send
// nothing. A failure is logged, and the next call tries again; it stops no
// counting.
func (a *Aggregator) rollOver(ctx context.Context, partitions int) {
	for due := rolledAtOnce; due == rolledAtOnce && ctx.Err() == nil; {
		var err error
		if due, err = a.rollOverDue(ctx, partitions); err != nil && ctx.Err() == nil {
			a.Log.Error("cannot create the periods that are due; trying again", "err", err)
			return
		}
	}
}

// rollOverDue rolls over what is due, partition by partition, so that the
// others count meanwhile.
func (a *Aggregator) rollOverDue(ctx context.Context, partitions int) (due int, err error) {
	now := a.Now()
	tenants, err := billing.Due(ctx, a.Pool, now, rolledAtOnce)
	if err != nil {
		return 0, err
	}
	byPartition := map[int][]uuid.UUID{}
	for _, t := range tenants {
		p := odometer.PartitionOf(t, partitions)
		byPartition[p] = append(byPartition[p], t)
	}
	for _, some := range byPartition {
		if err := billing.RollOver(ctx, a.Pool, some, now, now); err != nil {
			return 0, err
		}
	}
	return len(tenants), nil
}

// lease is the right to read partitions: advisory locks on a connection of its
// own, so that they end with the process, however it ends. It keeps two
// readers from working in vain; it is the position's compare-and-set that
// keeps them from counting twice.
type lease struct {
	conn *pgx.Conn
	held map[int]bool
}

// lockClass keeps our advisory locks apart from those of other programs in the
// same database: "odo".
const lockClass = 0x6f646f

// When a machine vanishes, its locks must not outlive it by the hours that TCP
// would take to notice.
const keepaliveSQL = `
set tcp_keepalives_idle = 5;
set tcp_keepalives_interval = 2;
set tcp_keepalives_count = 3`

func openLease(ctx context.Context, pool *pgxpool.Pool) (*lease, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, pool.Config().ConnConfig.Copy())
	if err != nil {
		return nil, fmt.Errorf("connect for the partition locks: %w", err)
	}
	if _, err := conn.Exec(ctx, keepaliveSQL); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare the partition locks: %w", err), conn.Close(ctx))
	}
	return &lease{conn: conn, held: map[int]bool{}}, nil
}

func (l *lease) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = l.conn.Close(ctx) // the server drops the locks with the connection in any case
}

const tryLockSQL = `
select pg_try_advisory_lock($1, $2)`

// acquire tries for every partition that is not held yet and reports whether it
// got one. It also proves that the connection, and with it the lease, still lives.
func (l *lease) acquire(ctx context.Context, partitions int) (gained bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for p := range partitions {
		if l.held[p] {
			continue
		}
		var got bool
		if err := l.conn.QueryRow(ctx, tryLockSQL, lockClass, p).Scan(&got); err != nil {
			return false, fmt.Errorf("lock partition %d: %w", p, err)
		}
		if got {
			l.held[p], gained = true, true
		}
	}
	if len(l.held) == partitions {
		if err := l.conn.Ping(ctx); err != nil {
			return false, fmt.Errorf("hold the partition locks: %w", err)
		}
	}
	return gained, nil
}

// watch keeps the lease for as long as a session lasts. It returns
// errPartitionFreed when a partition of a reader that is gone became free.
func (l *lease) watch(ctx context.Context, partitions int) error {
	return repeat(ctx, standbyPause, func() error {
		gained, err := l.acquire(ctx, partitions)
		if err == nil && gained {
			err = errPartitionFreed
		}
		return err
	})
}
