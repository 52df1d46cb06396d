package main

import (
	"context"
	"fmt"
	"time"

	"odometer/cmd/internal/cli"

	"github.com/jackc/pgx/v5"
)

const positionsSQL = `
select partition, seq
from stream_positions`

// readPositions reads how far each partition is committed.
func (d *database) readPositions(ctx context.Context, into tails) error {
	rows, _ := d.Query(ctx, positionsSQL)
	var partition int
	var seq int64
	_, err := pgx.ForEachRow(rows, []any{&partition, &seq}, func() error {
		into[partition] = seq
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the positions: %w", err)
	}
	return nil
}

// Pace of the looks at the positions, and how long they may stand still.
const (
	lookPause = 5 * time.Millisecond
	stuckTime = time.Minute
)

// waitFor waits until each partition is committed to its last message. (To the
// stream's last, which is another partition's for most, an idle partition moves
// only once a second.)
func (d *database) waitFor(ctx context.Context, last tails) error {
	seen, moved := make(tails, len(last)), time.Now()
	for {
		before := append(tails{}, seen...)
		if err := d.readPositions(ctx, seen); err != nil {
			return err
		}
		reached := true
		for p := range last {
			reached = reached && seen[p] >= last[p]
			if seen[p] != before[p] {
				moved = time.Now()
			}
		}
		if reached {
			return nil
		}
		if time.Since(moved) > stuckTime {
			return fmt.Errorf("the positions have stood at %v for %s; the partitions end at %v", seen, stuckTime, last)
		}
		if err := cli.PauseFor(ctx, lookPause); err != nil {
			return err
		}
	}
}

const readPartitionsSQL = `
select count(*) > 0 and count(*) = count(complete_until)
from stream_positions`

// waitUntilRead waits until an aggregator has read every partition to its end
// once: before, nobody knows as of when the books are.
func (d *database) waitUntilRead(ctx context.Context) error {
	for deadline := time.Now().Add(stuckTime); ; {
		var read bool
		if err := d.QueryRow(ctx, readPartitionsSQL).Scan(&read); err != nil {
			return fmt.Errorf("read the positions: %w", err)
		}
		if read {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the aggregator has not read the stream to its end after %s", stuckTime)
		}
		if err := cli.PauseFor(ctx, lookPause); err != nil {
			return err
		}
	}
}

const eventBytesSQL = `
select pg_total_relation_size('usage_events')`

// eventBytes is the size of the table of events with its indexes.
func (d *database) eventBytes(ctx context.Context) (size int64, err error) {
	if err := d.QueryRow(ctx, eventBytesSQL).Scan(&size); err != nil {
		return 0, fmt.Errorf("ask for the size of the events: %w", err)
	}
	return size, nil
}

// books are what must stand in a database after a lap.
type books struct {
	events     int
	units      int64
	duplicates int
}

const verifySQL = `
select
    (select count(*) from usage_events),
    (select coalesce(sum(count), 0)::bigint from usage_counters),
    (select coalesce(sum(duplicates), 0) from batches),
    (select count(*) from dead_letters),
    (
        select count(*)
        from (
            select tenant_id, agent, period_start, sum(quantity) as quantity
            from usage_events
            group by tenant_id, agent, period_start
        ) e
        full join usage_counters c using (tenant_id, agent, period_start)
        where coalesce(c.count, 0) <> coalesce(e.quantity, 0)
    )`

// books reads what stands there, and fails when it contradicts itself.
func (d *database) books(ctx context.Context) (got books, err error) {
	var dead, drifted int
	err = d.QueryRow(ctx, verifySQL).Scan(&got.events, &got.units, &got.duplicates, &dead, &drifted)
	if err != nil {
		return got, fmt.Errorf("verify the books: %w", err)
	}
	if dead != 0 || drifted != 0 {
		return got, fmt.Errorf("WRONG BOOKS: %d dead letters where none is, %d counters differ from their events", dead, drifted)
	}
	return got, nil
}

// verify fails when the books are not as they must be: a lap that lost or
// doubled an event has no time.
func (d *database) verify(ctx context.Context, want books) error {
	got, err := d.books(ctx)
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("WRONG BOOKS: %d events, %d units, %d duplicates, where %d, %d and %d were published",
			got.events, got.units, got.duplicates, want.events, want.units, want.duplicates)
	}
	return nil
}
