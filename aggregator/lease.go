package aggregator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

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
