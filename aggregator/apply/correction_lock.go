package apply

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// While a replay restores events of a partition, balances are too low: a
// correction downwards would be refused although it was right, and a period
// would be closed or reported with too little. The replay therefore holds a
// CorrectionLock; the reader's corrections of the partition wait for it, and
// nothing is closed or reported.

// correctionLockClass keeps these advisory locks apart from those of readers: "odp".
const correctionLockClass = 0x6f6470

// CorrectionLock makes corrections of partitions wait. The locks are those of a
// connection, so they end with the replay, however it ends; several replays may
// hold the same partition. The zero value holds nothing.
type CorrectionLock struct {
	conn *pgx.Conn
	held map[int]bool
}

const takeLockSQL = `
select pg_advisory_lock_shared($1, $2)`

// Take holds a partition's corrections back until Release.
func (l *CorrectionLock) Take(ctx context.Context, pool *pgxpool.Pool, partition int) error {
	if l.held[partition] {
		return nil
	}
	if l.conn == nil {
		conn, err := pgx.ConnectConfig(ctx, pool.Config().ConnConfig.Copy())
		if err != nil {
			return fmt.Errorf("connect to hold corrections back: %w", err)
		}
		l.conn, l.held = conn, map[int]bool{}
	}
	if _, err := l.conn.Exec(ctx, takeLockSQL, correctionLockClass, partition); err != nil {
		return fmt.Errorf("hold corrections of partition %d back: %w", partition, err)
	}
	l.held[partition] = true
	return nil
}

// Release lets all corrections go on.
func (l *CorrectionLock) Release() {
	if l.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = l.conn.Close(ctx) // the server drops the locks with the connection in any case
}

const correctionLocksSQL = `
select coalesce(array_agg(distinct objid::bigint::integer), '{}')
from pg_locks
where locktype = 'advisory'
  and database = (select oid from pg_database where datname = current_database())
  and classid = $1
  and objsubid = 2
  and granted`

// CorrectionsHeld are the partitions whose corrections wait for a replay.
func CorrectionsHeld(ctx context.Context, pool *pgxpool.Pool) (partitions []int, err error) {
	if err := pool.QueryRow(ctx, correctionLocksSQL, correctionLockClass).Scan(&partitions); err != nil {
		return nil, fmt.Errorf("find out whether a replay runs: %w", err)
	}
	return partitions, nil
}

// ErrReplaying says that a replay is restoring events: what is counted is less
// than what is true, and must be neither closed nor reported.
var ErrReplaying = errors.New("a replay is restoring events")

// Replaying is ErrReplaying while a replay restores events.
func Replaying(ctx context.Context, pool *pgxpool.Pool) error {
	held, err := CorrectionsHeld(ctx, pool)
	if err == nil && len(held) > 0 {
		err = fmt.Errorf("%w (partition %d): nothing is closed or reported until it has ended; run this again then", ErrReplaying, held[0])
	}
	return err
}
