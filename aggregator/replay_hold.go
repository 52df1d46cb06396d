package aggregator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// holdClass keeps the locks of replays apart from those of readers: "odp".
const holdClass = 0x6f6470

// holdPause is how long a held back correction waits between two looks.
const holdPause = 100 * time.Millisecond

const heldBackSQL = `
select exists (
    select
    from pg_locks
    where locktype = 'advisory'
      and database = (select oid from pg_database where datname = current_database())
      and classid = $1
      and objid = $2
      and objsubid = 2
      and granted
)`

// holdBack waits with a correction for as long as a replay restores events of
// the partition: a balance that is not rebuilt yet would refuse what was right,
// or take what was wrong. What lies behind it in the partition waits too.
func (w *worker) holdBack(ctx context.Context, b *batch) error {
	if len(b.items) == 0 || !b.items[0].correction() {
		return nil
	}
	for said := false; ctx.Err() == nil; said = true {
		var held bool
		err := w.a.Pool.QueryRow(ctx, heldBackSQL, holdClass, w.partition).Scan(&held)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil || !held {
			return err
		}
		if !said {
			w.a.Log.Info("a correction waits for the replay of its partition", "partition", w.partition, "seq", b.items[0].seq)
		}
		select {
		case <-ctx.Done():
		case <-time.After(holdPause):
		}
	}
	return nil
}

// hold makes corrections of partitions wait. The locks are those of a
// connection, so they end with the replay, however it ends; several replays may
// hold the same partition.
type hold struct {
	conn *pgx.Conn
	held map[int]bool
}

const holdSQL = `
select pg_advisory_lock_shared($1, $2)`

func (h *hold) take(ctx context.Context, pool *pgxpool.Pool, partition int) error {
	if h.held[partition] {
		return nil
	}
	if h.conn == nil {
		conn, err := pgx.ConnectConfig(ctx, pool.Config().ConnConfig.Copy())
		if err != nil {
			return fmt.Errorf("connect to hold corrections back: %w", err)
		}
		h.conn, h.held = conn, map[int]bool{}
	}
	if _, err := h.conn.Exec(ctx, holdSQL, holdClass, partition); err != nil {
		return fmt.Errorf("hold corrections of partition %d back: %w", partition, err)
	}
	h.held[partition] = true
	return nil
}

func (h *hold) release() {
	if h.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = h.conn.Close(ctx) // the server drops the locks with the connection in any case
}

const replayingSQL = `
select coalesce(min(objid::bigint), -1)
from pg_locks
where locktype = 'advisory'
  and database = (select oid from pg_database where datname = current_database())
  and classid = $1
  and objsubid = 2
  and granted`

// ErrReplaying says that a replay is restoring events: what is counted is less
// than what is true, and must be neither closed nor told.
var ErrReplaying = errors.New("a replay is restoring the books")

// Replaying is ErrReplaying while one does.
func Replaying(ctx context.Context, pool *pgxpool.Pool) error {
	var partition int64
	if err := pool.QueryRow(ctx, replayingSQL, holdClass).Scan(&partition); err != nil {
		return fmt.Errorf("look whether a replay runs: %w", err)
	}
	if partition >= 0 {
		return fmt.Errorf("%w (partition %d): nothing is closed or told until it has ended; call again then", ErrReplaying, partition)
	}
	return nil
}
