package aggregator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
)

// A retry judges dead letters anew: the bytes and the stored time that the
// stream gave them, by the catalogue and the periods of today. What a letter
// becomes (an event, a duplicate, still a dead letter with perhaps another
// reason) is decided in one transaction under its partition's lock, together
// with the letter's own row. So it counts once, however often and by however
// many it is retried, and whenever one of them is killed.
//
// `batches` is not touched: there a message stays what it was when it was read.
// The dead of all batches are the rows of dead_letters, whatever their state;
// an event that came from one is told by its position, which is the letter's.

// Outcome is what became of a dead letter, or what it is.
type Outcome struct {
	ID     odometer.Position
	State  string // "open" is still dead
	Reason odometer.Reason
	Detail string
	Before bool // it was decided before: nothing was done
}

// Retry retries the open letters of a selection, in their order in the stream,
// and tells of each. Letters that are not open are told and left alone. With
// an error, what was told is done; retrying again is safe.
func Retry(ctx context.Context, pool *pgxpool.Pool, s Selection, who string, each func(Outcome)) error {
	if err := s.mustExist(ctx, pool); err != nil {
		return err
	}
	if err := s.tellDecided(ctx, pool, each); err != nil {
		return err
	}
	return retryPages(ctx, pool, who, each, func(after odometer.Position) (pgx.Rows, error) {
		return s.openAfter(ctx, pool, after)
	})
}

// lettersAtOnce bounds the memory for letters, and how long a retry holds a
// partition.
const lettersAtOnce = 500

// retryPages retries what next brings, page by page.
func retryPages(ctx context.Context, pool *pgxpool.Pool, who string, each func(Outcome), next func(odometer.Position) (pgx.Rows, error)) error {
	r := &retrier{pool: pool, who: who, each: each, workers: map[int]*worker{}}
	r.a = &Aggregator{Options: Options{Pool: pool, Now: time.Now}}
	for after := (odometer.Position{}); ; {
		rows, _ := next(after) // an error here resurfaces in collectLetters
		page, err := collectLetters(rows)
		if err != nil || len(page) == 0 {
			return err
		}
		if err := r.page(ctx, page); err != nil {
			return err
		}
		after = page[len(page)-1].Position
	}
}

// retrier retries letters partition by partition.
type retrier struct {
	a       *Aggregator
	pool    *pgxpool.Pool
	who     string
	each    func(Outcome)
	workers map[int]*worker
}

// page retries letters that are in the order of the stream.
func (r *retrier) page(ctx context.Context, letters []letter) error {
	partitions, err := countPartitions(ctx, r.pool)
	if err != nil {
		return err
	}
	dealt := make([][]item, partitions)
	for i := range letters {
		it, partition := letters[i].item(partitions)
		dealt[partition] = append(dealt[partition], it)
	}
	for partition, items := range dealt {
		if err := r.runs(ctx, r.worker(partition), items); err != nil {
			return err
		}
	}
	return nil
}

// worker is one that counts by the rules of the reader, but reads nothing.
func (r *retrier) worker(partition int) *worker {
	if r.workers[partition] == nil {
		r.workers[partition] = &worker{a: r.a, partition: partition, rules: &ruleCache{partition: partition}}
	}
	return r.workers[partition]
}

// runs cuts the items where the reader would: a correction is judged alone,
// after all before it was counted.
func (r *retrier) runs(ctx context.Context, w *worker, items []item) error {
	for from := 0; from < len(items); {
		to := from + 1
		for !items[from].correction() && to < len(items) && !items[to].correction() {
			to++
		}
		if err := r.run(ctx, w, &batch{items: items[from:to]}); err != nil {
			return err
		}
		from = to
	}
	return nil
}

// run decides about a run of letters, however often the terms change meanwhile.
func (r *retrier) run(ctx context.Context, w *worker, b *batch) error {
	for {
		j, err := w.judge(ctx, b)
		if err != nil {
			return err
		}
		err = r.decide(ctx, w, b, j)
		switch refusal, refused := poison(err); {
		case err == nil:
			w.rules.trim()
			return nil
		case errors.Is(err, errRulesChanged):
			w.rules.forget()
		case refused:
			w.rules.forget()
			return r.isolate(ctx, w, b, refusal.ConstraintName, refusal.Message)
		default:
			return err
		}
	}
}

// isolate finds the letter for which Postgres refuses a run, as the reader does.
func (r *retrier) isolate(ctx context.Context, w *worker, b *batch, constraint, refusal string) error {
	if len(b.items) > 1 {
		first, second := b.halves()
		if err := r.run(ctx, w, first); err != nil {
			return err
		}
		return r.run(ctx, w, second)
	}
	it := &b.items[0]
	if it.reject != nil {
		return fmt.Errorf("retry dead letter %s: %s", LetterID(it.event.Position), refusal)
	}
	it.reject = &odometer.Rejection{Reason: odometer.Malformed, Detail: "the database refuses it: " + refusal}
	if constraint == "usage_counters_not_negative" {
		// The terms were forgotten with the failure; where its period lies they tell.
		if err := w.rules.prepare(ctx, r.pool, []item{{event: it.event}}, nil); err != nil {
			return err
		}
		tenant := w.rules.tenants[it.event.Tenant]
		if tenant == nil || it.place(tenant.Periods) == nil {
			it.reject = nil // the terms have changed: it is another question now
		} else if err := w.rejectNegative(ctx, r.pool, it); err != nil {
			return err
		}
	}
	return r.run(ctx, w, b)
}

const countPartitionsSQL = `
select count(*)
from stream_positions`

func countPartitions(ctx context.Context, pool *pgxpool.Pool) (n int, err error) {
	if err := pool.QueryRow(ctx, countPartitionsSQL).Scan(&n); err != nil {
		return 0, fmt.Errorf("count partitions: %w", err)
	}
	if n == 0 {
		return 0, fmt.Errorf("%w: no aggregator has read the stream yet: start one with: odometer run aggregator", ErrUnfit)
	}
	return n, nil
}
