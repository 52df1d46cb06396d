package aggregator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"odometer"
)

// commitTimeout bounds one batch's transaction, waits for locks included.
const commitTimeout = time.Minute

// commitAll counts the batches that collect hands over. A batch that has begun
// is finished also when ctx ends meanwhile.
func (w *worker) commitAll(ctx context.Context) error {
	for b := range w.ready {
		if err := w.holdBack(ctx, b); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
		err := w.settle(finish, b)
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

// settle counts a batch, however often its terms change meanwhile.
func (w *worker) settle(ctx context.Context, b *batch) error {
	if len(b.items) == 0 {
		if err := advance(ctx, w.a.Pool, w.partition, w.at, b.mark); err != nil {
			return err
		}
		w.moved(b)
		return nil
	}
	began := time.Now()
	if err := w.recall(ctx, b); err != nil {
		return err
	}
	for {
		j, err := w.judge(ctx, b)
		if err != nil {
			return err
		}
		t, err := w.count(ctx, b, j)
		switch refusal, refused := poison(err); {
		case err == nil:
			w.moved(b)
			w.repeating = 2*t.duplicates > len(b.items)
			w.rules.trim()
			w.tell(b, t, time.Since(began))
			return nil
		case errors.Is(err, errRulesChanged):
			if err := w.stillOurs(ctx); err != nil {
				return err
			}
			w.rules.forget()
		case refused:
			return w.isolate(ctx, b, refusal.ConstraintName, refusal.Message)
		default:
			return err
		}
	}
}

func (w *worker) moved(b *batch) {
	w.at.Seq = b.seq
	w.committed.Store(b.seq)
}

// stillOurs tells changed terms from a position that another reader moved.
func (w *worker) stillOurs(ctx context.Context) error {
	places, err := loadPlaces(ctx, w.a.Pool, loadPlacesSQL)
	if err != nil {
		return err
	}
	if places[w.partition].Position != w.at {
		return fmt.Errorf("count partition %d from %d: %w", w.partition, w.at.Seq, errMoved)
	}
	return nil
}

// isolate finds the message for which Postgres refuses a batch: it counts both
// halves on their own, and a single message becomes a dead letter. So one
// message that no rule foresaw never stops a partition.
func (w *worker) isolate(ctx context.Context, b *batch, constraint, refusal string) error {
	if len(b.items) == 1 {
		it := &b.items[0]
		if it.reject != nil {
			return fmt.Errorf("book dead letter %d of partition %d: %s", it.seq, w.partition, refusal)
		}
		it.reject = &odometer.Rejection{Reason: odometer.Malformed, Detail: "the database refuses it: " + refusal}
		if constraint == "usage_counters_not_negative" {
			if err := w.rejectNegative(ctx, w.a.Pool, it); err != nil {
				return err
			}
		}
		return w.settle(ctx, b)
	}
	first, second := b.halves()
	if err := w.settle(ctx, first); err != nil {
		return err
	}
	return w.settle(ctx, second)
}

// halves cuts a batch in two, each with its own way through the stream.
func (b *batch) halves() (*batch, *batch) {
	middle := len(b.items) / 2
	first := &batch{items: b.items[:middle], mark: b.items[middle-1].mark}
	return first, &batch{items: b.items[middle:], mark: b.mark}
}

const balanceSQL = `
select c.count, c.period_start
from usage_counters c
where c.tenant_id = $1
  and c.agent = $2
  and c.period_start = $3`

// rejectNegative makes the refusal of a correction tell the balance.
func (w *worker) rejectNegative(ctx context.Context, q querier, it *item) error {
	e := &it.event
	period := it.place(w.rules.tenants[e.Tenant].Periods)
	var balance int64
	rows, _ := q.Query(ctx, balanceSQL, e.Tenant, e.Agent, period.Start)
	for rows.Next() {
		if err := rows.Scan(&balance, nil); err != nil {
			return fmt.Errorf("read the balance of %s/%s: %w", e.Tenant, e.Agent, err)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read the balance of %s/%s: %w", e.Tenant, e.Agent, err)
	}
	it.reject = belowZero(e.Quantity, balance, period.Start)
	return nil
}

func belowZero(quantity, balance int64, period time.Time) *odometer.Rejection {
	return &odometer.Rejection{Reason: odometer.NegativeBalance, Detail: fmt.Sprintf(
		"quantity %d would bring the balance of %d in the period from %s below zero",
		quantity, balance, period.Format(time.RFC3339))}
}
