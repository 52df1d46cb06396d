package app

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"

	"odometer"
	"odometer/aggregator/deadletter"
	"odometer/cmd/internal/cli"
	"odometer/cmd/internal/jobs"
	"odometer/ingest"
	"odometer/query/admin"
)

// AdminOptions hands the operators' API what other stages do; nc may be nil.
func AdminOptions(pool *pgxpool.Pool, nc *nats.Conn) admin.Options {
	o := admin.Options{
		Pool: pool,
		RetryDeadLetters: func(ctx context.Context, ids []odometer.Position, who string) ([]admin.DeadLetterOutcome, error) {
			return retryDeadLetters(ctx, pool, ids, who)
		},
		Jobs: func(ctx context.Context) ([]admin.Job, error) { return jobs.List(ctx, pool, time.Now()) },
		SetPaused: func(ctx context.Context, job string, paused bool, who string) error {
			return jobs.SetPaused(ctx, pool, job, paused, who)
		},
	}
	if nc != nil {
		js := cli.JetStream(nc)
		o.StreamEnd = func(ctx context.Context) (int64, error) {
			stream, err := js.Stream(ctx, ingest.StreamName)
			if err != nil {
				return 0, fmt.Errorf("read the state of stream %s: %w", ingest.StreamName, err)
			}
			return int64(stream.CachedInfo().State.LastSeq), nil
		}
		o.Waiting = func(ctx context.Context, partition int, after, through int64) (int64, error) {
			return ingest.CountUnread(ctx, nc, partition, after, through)
		}
	}
	return o
}

// retryDeadLetters retries the dead letters of these ids and returns the outcome of each.
func retryDeadLetters(ctx context.Context, pool *pgxpool.Pool, ids []odometer.Position, who string) ([]admin.DeadLetterOutcome, error) {
	var became []admin.DeadLetterOutcome
	err := deadletter.Retry(ctx, pool, deadletter.Selection{IDs: ids}, who, func(o deadletter.Outcome) {
		became = append(became, admin.DeadLetterOutcome{
			ID: deadletter.ID(o.ID), State: o.State, Reason: o.Reason, Detail: o.Detail, Already: o.Before,
		})
	})
	return became, err
}
