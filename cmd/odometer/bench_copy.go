package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"odometer"
	"odometer/aggregator"
)

// eventColumns are those of usage_events, in the order of rowOf.
var eventColumns = []string{
	"tenant_id", "event_id", "agent", "kind", "action_type", "resource_id", "quantity", "idempotency_key",
	"metadata", "occurred_at", "recorded_at", "period_start", "stream_epoch", "stream_seq",
}

func rowOf(e *odometer.Event, period time.Time) []any {
	return []any{
		e.Tenant, e.ID(), e.Agent, string(e.Kind), e.Action, e.Resource, e.Quantity, e.Key,
		e.Metadata, e.OccurredAt, e.RecordedAt, period, e.Position.Epoch, e.Position.Seq,
	}
}

const benchPeriodSQL = `
select min(period_start)
from billing_periods`

// prepareRows makes the rows of all events beforehand: COPY's time is the
// database's alone.
func (w *writing) prepareRows(ctx context.Context) error {
	var period time.Time
	if err := w.copied.QueryRow(ctx, benchPeriodSQL).Scan(&period); err != nil {
		return fmt.Errorf("ask for the period: %w", err)
	}
	w.rows = make([][]any, w.Events)
	for i := range w.rows {
		e := w.work.stored(i)
		w.rows[i] = rowOf(&e, period)
	}
	return nil
}

// runCopy is the limit of what one connection can store: the rows as they are,
// in binary, into the same table with the same indexes, in transactions as
// large as the aggregator's. Nothing is counted, and a repeat would undo all.
func (w *writing) runCopy(ctx context.Context) (lap, error) {
	if err := w.copied.clear(ctx); err != nil {
		return lap{}, err
	}
	before, err := w.copied.eventBytes(ctx)
	if err != nil {
		return lap{}, err
	}
	effort, begin := w.effort(0), time.Now()
	for from := 0; from < len(w.rows); from += aggregator.DefaultBatchSize {
		some := w.rows[from:min(len(w.rows), from+aggregator.DefaultBatchSize)]
		if _, err := w.copied.CopyFrom(ctx, pgx.Identifier{"usage_events"}, eventColumns, pgx.CopyFromRows(some)); err != nil {
			return lap{}, fmt.Errorf("copy %d rows: %w", len(some), err)
		}
	}
	l := lap{events: len(w.rows), took: time.Since(begin), effort: w.effort(0).minus(effort)}
	after, err := w.copied.eventBytes(ctx)
	l.stored = after - before
	return l, err
}
