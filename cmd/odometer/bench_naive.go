package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"odometer"
	"odometer/cmd/internal/cli"
	"odometer/ingest"
)

// The naive way, as it is usually written: for each event a transaction that
// asks for the subscription's period, inserts the event, reads the counter for
// update and writes it back. It has the same stream, the same decoder, the same
// tables and the same protection against repeats as the aggregator.
const naivePeriodSQL = `
select p.period_start
from subscriptions s
join billing_periods p on p.tenant_id = s.tenant_id
where s.tenant_id = $1
  and s.status in ('trial', 'active', 'past_due')
  and p.period_start <= $2
  and p.period_end > $2`

const naiveInsertSQL = `
insert into usage_events (
    tenant_id, event_id, agent, kind, action_type, resource_id, quantity, idempotency_key,
    metadata, occurred_at, recorded_at, period_start, stream_epoch, stream_seq
)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
on conflict (tenant_id, event_id) do nothing`

const naiveCounterSQL = `
select count
from usage_counters
where tenant_id = $1
  and agent = $2
  and period_start = $3
for update`

const naiveUpdateSQL = `
update usage_counters
set count = $4,
    last_event_at = greatest(last_event_at, $5),
    updated_at = now()
where tenant_id = $1
  and agent = $2
  and period_start = $3`

func countOne(ctx context.Context, tx pgx.Tx, e *odometer.Event) error {
	var period time.Time
	if err := tx.QueryRow(ctx, naivePeriodSQL, e.Tenant, e.OccurredAt).Scan(&period); err != nil {
		return err
	}
	inserted, err := tx.Exec(ctx, naiveInsertSQL, rowOf(e, period)...)
	if err != nil || inserted.RowsAffected() == 0 {
		return err
	}
	var count int64
	if err := tx.QueryRow(ctx, naiveCounterSQL, e.Tenant, e.Agent, period).Scan(&count); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, naiveUpdateSQL, e.Tenant, e.Agent, period, count+e.Quantity, e.OccurredAt)
	return err
}

// countNaively is the naive contestant: over so many connections it takes a
// message, counts it, and acknowledges it once that is committed.
func (c *contestant) countNaively(ctx context.Context, stream *ingest.Stream, pool *pgxpool.Pool) error {
	consumer, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckExplicitPolicy, MemoryStorage: true, InactiveThreshold: time.Minute,
	})
	if err != nil {
		return fmt.Errorf("read the stream: %w", err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		return fmt.Errorf("read the stream: %w", err)
	}
	defer messages.Stop()
	defer context.AfterFunc(ctx, messages.Stop)()
	var group errgroup.Group
	for range c.Connections {
		group.Go(func() error {
			for {
				msg, err := messages.Next()
				if ctx.Err() != nil {
					return nil // the time is up
				}
				if err != nil {
					return fmt.Errorf("read the stream: %w", err)
				}
				e, err := decodeStored(msg)
				if err != nil {
					return err
				}
				// Not ctx: what has begun is finished.
				err = pgx.BeginFunc(context.WithoutCancel(ctx), pool, func(tx pgx.Tx) error {
					return countOne(context.WithoutCancel(ctx), tx, &e)
				})
				if err != nil {
					return fmt.Errorf("count one event: %w", err)
				}
				_ = msg.Ack() // a lost one is delivered again, and changes nothing
			}
		})
	}
	return group.Wait()
}

// naiveShare of the span is how long each of the two naive laps takes: their
// rate is known soon.
const naiveShare = 3

const eventsSQL = `
select count(*)
from usage_events`

// runNaive lets the naive way count the first stream for a while.
func (w *writing) runNaive(ctx context.Context, connections int) (l lap, err error) {
	if err := w.naive.clear(ctx); err != nil {
		return lap{}, err
	}
	before, err := w.naive.eventBytes(ctx)
	if err != nil {
		return lap{}, err
	}
	r, err := w.enter(ctx, contestant{
		Role: naiveRole, DatabaseURL: w.naive.url, NATSURL: w.first.server.ClientURL(), Connections: connections,
	})
	if err != nil {
		return lap{}, err
	}
	effort, begin := w.effort(r.pid()), time.Now()
	if err := errors.Join(r.start(), cli.PauseFor(ctx, w.Span/naiveShare)); err != nil {
		return lap{}, errors.Join(err, r.leave())
	}
	err = w.naive.QueryRow(ctx, eventsSQL).Scan(&l.events)
	l.took, l.effort, l.peak = time.Since(begin), w.effort(r.pid()).minus(effort), peakMemory(r.pid())
	if err := errors.Join(err, r.leave()); err != nil {
		return lap{}, fmt.Errorf("count the events: %w", err)
	}
	if l.events == 0 {
		return lap{}, fmt.Errorf("nothing was counted in %s: the machine is too busy", w.Span/naiveShare)
	}
	after, err := w.naive.eventBytes(ctx)
	if err != nil {
		return lap{}, err
	}
	l.stored = after - before
	_, err = w.naive.books(ctx)
	return l, err
}
