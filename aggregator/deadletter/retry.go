// Package deadletter lists, discards and retries dead letters.
//
// A retry has a dead letter classified again: the bytes and the stored time that
// the stream gave it, by the catalogue and the periods of today. What it becomes
// (an event, a duplicate, still a dead letter with perhaps another reason) is
// decided in one transaction under its partition's lock, together with its own
// row. So it counts once, however often and by however many it is retried, and
// whenever one of them is killed.
//
// `batches` is not touched: there a message stays what it was when it was read.
// The dead of all batches are the rows of dead_letters, whatever their state; an
// event that came from a dead letter lies at its position.
package deadletter

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
	"odometer/aggregator/apply"
	"odometer/aggregator/position"
)

// Retry retries the open dead letters of a selection, in their order in the
// stream, and reports each. Those that are not open are reported and left alone.
// With an error, what was reported is done; retrying again is safe.
func Retry(ctx context.Context, pool *pgxpool.Pool, s Selection, who string, each func(Outcome)) error {
	if err := s.checkNamed(ctx, pool, each); err != nil {
		return err
	}
	return retryPages(ctx, pool, who, each, func(after odometer.Position) (pgx.Rows, error) {
		return s.openAfter(ctx, pool, after)
	})
}

const openAfterSQL = `
select ` + apply.DeadLetterColumns + `
from dead_letters d
where d.state = 'open'
  and ` + selectedSQL + `
  and (d.stream_epoch, d.stream_seq) > ($5, $6)
order by d.stream_epoch, d.stream_seq
limit $7`

func (s *Selection) openAfter(ctx context.Context, pool *pgxpool.Pool, after odometer.Position) (pgx.Rows, error) {
	return pool.Query(ctx, openAfterSQL, s.args(after.Epoch, after.Seq, pageSize)...)
}

// pageSize bounds the memory for dead letters, and how long a retry holds a
// partition.
const pageSize = 500

// retryPages retries what next returns, page by page.
func retryPages(ctx context.Context, pool *pgxpool.Pool, who string, each func(Outcome), next func(odometer.Position) (pgx.Rows, error)) error {
	r := &retrier{pool: pool, who: who, each: each, appliers: map[int]*apply.Applier{}}
	for after := (odometer.Position{}); ; {
		rows, _ := next(after) // CollectDeadLetters returns its error
		page, err := apply.CollectDeadLetters(rows)
		if err != nil || len(page) == 0 {
			return err
		}
		after = page[len(page)-1].Event.Position
		if err := r.page(ctx, page); err != nil {
			return err
		}
	}
}

// retrier retries dead letters partition by partition.
type retrier struct {
	pool     *pgxpool.Pool
	who      string
	each     func(Outcome)
	appliers map[int]*apply.Applier // by partition
}

// page retries dead letters that are in the order of the stream.
func (r *retrier) page(ctx context.Context, items []apply.Item) error {
	state, err := position.Load(ctx, r.pool)
	if err != nil {
		return err
	}
	if len(state.Partitions) == 0 {
		return position.ErrNeverRead
	}
	byPartition := make([][]apply.Item, len(state.Partitions))
	for _, i := range items {
		p := i.Partition(len(state.Partitions))
		byPartition[p] = append(byPartition[p], i)
	}
	for p, items := range byPartition {
		if r.appliers[p] == nil {
			r.appliers[p] = &apply.Applier{Pool: r.pool, Partition: p, Now: time.Now}
		}
		if err := r.retry(ctx, r.appliers[p], items); err != nil {
			return err
		}
	}
	return nil
}

// retry cuts the items where the reader would: a correction is classified alone,
// after all before it was counted.
func (r *retrier) retry(ctx context.Context, a *apply.Applier, items []apply.Item) error {
	for from := 0; from < len(items); {
		to := from + 1
		for !items[from].Correction() && to < len(items) && !items[to].Correction() {
			to++
		}
		err := a.Apply(ctx, items[from:to], func(ctx context.Context, b *apply.Batch) error { return r.transaction(ctx, a, b) })
		if err != nil {
			return fmt.Errorf("retry dead letters from %s: %w", ID(items[from].Event.Position), err)
		}
		from = to
	}
	return nil
}

// transaction commits what the dead letters count and what their rows say of it
// together.
func (r *retrier) transaction(ctx context.Context, a *apply.Applier, b *apply.Batch) error {
	conn, err := r.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connect to retry: %w", err)
	}
	defer conn.Release()
	var outcomes []Outcome
	err = a.WithLock(ctx, conn.Conn(), b, func(tx pgx.Tx, stay apply.Advance) error {
		open, decided, err := lockOpen(ctx, tx, b.Items)
		if err != nil {
			return err
		}
		keep(b, open)
		if err := a.Insert(ctx, tx.Conn(), &pgx.Batch{}, b, stay); err != nil {
			return err
		}
		done, err := r.record(ctx, tx, a, b, stay.From)
		outcomes = slices.Concat(decided, done)
		return err
	})
	if err != nil {
		return err
	}
	for _, o := range outcomes {
		r.each(o)
	}
	return nil
}

const lockOpenSQL = `
select d.stream_epoch, d.stream_seq, d.state, d.reason, d.detail
from dead_letters d
join unnest($1::integer[], $2::bigint[]) as l (stream_epoch, stream_seq) using (stream_epoch, stream_seq)
order by d.stream_epoch, d.stream_seq
for update of d`

// lockOpen locks the dead letters and returns which of them are open, and what
// became of the others since they were read.
func lockOpen(ctx context.Context, tx pgx.Tx, items []apply.Item) (open map[odometer.Position]bool, decided []Outcome, err error) {
	epochs, seqs := positionsOf(items)
	rows, _ := tx.Query(ctx, lockOpenSQL, epochs, seqs)
	found, err := collectOutcomes(rows)
	if err != nil {
		return nil, nil, fmt.Errorf("lock %d dead letters: %w", len(items), err)
	}
	open = map[odometer.Position]bool{}
	for _, o := range found {
		if o.State == "open" {
			open[o.ID] = true
			continue
		}
		o.Before = true
		decided = append(decided, o)
	}
	return open, decided, nil
}

func positionsOf(items []apply.Item) (epochs []int32, seqs []int64) {
	for n := range items {
		at := items[n].Event.Position
		epochs, seqs = append(epochs, at.Epoch), append(seqs, at.Seq)
	}
	return epochs, seqs
}

// keep leaves only the open dead letters in a batch.
func keep(b *apply.Batch, open map[odometer.Position]bool) {
	decided := func(i *apply.Item) bool { return !open[i.Event.Position] }
	b.Events = slices.DeleteFunc(b.Events, decided)
	b.NoPeriod = slices.DeleteFunc(b.NoPeriod, decided)
	b.Dead = slices.DeleteFunc(b.Dead, func(d apply.DeadLetter) bool { return decided(d.Item) })
}

// A dead letter whose own position has the event is the one that counts.
const recordCountedSQL = `
update dead_letters d
set state = case
        when exists (
            select from usage_events e
            where e.tenant_id = s.tenant_id
              and e.event_id = s.event_id
              and e.stream_epoch = d.stream_epoch
              and e.stream_seq = d.stream_seq
        ) then 'retried'
        else 'duplicate'
    end,
    retry_epoch = $6,
    retry_seq = $7,
    retry_closed_until = s.closed_until,
    decided_at = now(),
    decided_by = $8
from unnest($1::integer[], $2::bigint[], $3::uuid[], $4::uuid[], $5::timestamptz[])
    as s (stream_epoch, stream_seq, tenant_id, event_id, closed_until)
where d.stream_epoch = s.stream_epoch
  and d.stream_seq = s.stream_seq
returning d.stream_epoch, d.stream_seq, d.state, d.reason, d.detail`

const recordStillDeadSQL = `
update dead_letters d
set reason = s.reason,
    detail = s.detail,
    rules_seen = ` + rulesSeenSQL + `
from unnest($1::integer[], $2::bigint[], $3::text[], $4::text[]) as s (stream_epoch, stream_seq, reason, detail)
where d.stream_epoch = s.stream_epoch
  and d.stream_seq = s.stream_seq
returning d.stream_epoch, d.stream_seq, d.state, d.reason, d.detail`

// record writes into the rows of dead letters what became of them.
func (r *retrier) record(ctx context.Context, tx pgx.Tx, a *apply.Applier, b *apply.Batch, at odometer.Position) ([]Outcome, error) {
	dead := map[*apply.Item]bool{}
	var epochs []int32
	var seqs []int64
	var reasons, details []string
	for _, d := range b.Dead {
		dead[d.Item] = true
		epochs, seqs = append(epochs, d.Item.Event.Position.Epoch), append(seqs, d.Item.Event.Position.Seq)
		reasons, details = append(reasons, string(d.Rejection.Reason)), append(details, apply.Storable(d.Rejection.Detail))
	}
	rows, _ := tx.Query(ctx, recordStillDeadSQL, epochs, seqs, reasons, details)
	outcomes, err := collectOutcomes(rows)
	if err != nil {
		return nil, fmt.Errorf("record that %d dead letters are still dead: %w", len(dead), err)
	}

	// Events now, or duplicates of one.
	epochs, seqs = nil, nil
	var tenants, events []uuid.UUID
	var closed []*time.Time
	for _, i := range slices.Concat(b.Events, b.NoPeriod) {
		if dead[i] {
			continue
		}
		epochs, seqs = append(epochs, i.Event.Position.Epoch), append(seqs, i.Event.Position.Seq)
		tenants, events = append(tenants, i.Event.Tenant), append(events, i.ID)
		closed = append(closed, a.ClosedUntil(i.Event.Tenant))
	}
	rows, _ = tx.Query(ctx, recordCountedSQL, epochs, seqs, tenants, events, closed, at.Epoch, at.Seq, r.who)
	counted, err := collectOutcomes(rows)
	if err != nil {
		return nil, fmt.Errorf("record %d retried dead letters: %w", len(events), err)
	}
	return append(counted, outcomes...), nil
}

// rulesSeenSQL names the rules by which a dead letter `d` is dead for the reason
// `s.reason`, as they are now: the catalogue, or the tenant's periods; null when
// there are none, and for reasons that no change of rules heals. It writes times
// as numbers, because how a time reads as text depends on the session.
const rulesSeenSQL = `case
        when s.reason in ('unknown_agent', 'unknown_action') then (
            select extract(epoch from c.applied_at)::text
            from catalogue c
        )
        when s.reason = 'no_billing_period' then (
            select md5(string_agg(extract(epoch from p.period_start) || '-' || extract(epoch from p.period_end), ',' order by p.period_start))
            from billing_periods p
            where p.tenant_id = d.tenant_id
        )
    end`

// A dead letter is retried when the rules it has seen are not those of today.
// Most need not be: their agent is still not there, their tenant still has no
// periods. All of it is read from one index, so a query costs little beside many
// dead letters whose cause persists.
const changedSQL = `
with catalogue_now as materialized (
    select extract(epoch from applied_at)::text as stamp
    from catalogue
),
waiting as materialized (
    select distinct tenant_id
    from dead_letters
    where state = 'open'
      and reason = 'no_billing_period'
),
periods_now as materialized (
    select
        p.tenant_id,
        md5(string_agg(extract(epoch from p.period_start) || '-' || extract(epoch from p.period_end), ',' order by p.period_start)) as stamp
    from waiting
    join billing_periods p using (tenant_id)
    group by p.tenant_id
),
changed as materialized (
    select l.stream_epoch, l.stream_seq
    from dead_letters l
    where l.state = 'open'
      and l.reason in ('unknown_agent', 'unknown_action')
      and l.rules_seen is distinct from (select stamp from catalogue_now)
      and exists (select from agents a where a.agent = l.agent)
    union all
    select l.stream_epoch, l.stream_seq
    from dead_letters l
    join periods_now p using (tenant_id)
    where l.state = 'open'
      and l.reason = 'no_billing_period'
      and l.rules_seen is distinct from p.stamp
)
select ` + apply.DeadLetterColumns + `
from changed
join dead_letters d using (stream_epoch, stream_seq)
where (d.stream_epoch, d.stream_seq) > ($1, $2)
order by d.stream_epoch, d.stream_seq
limit $3`

// AutoRetry retries the open dead letters no_billing_period, unknown_agent and
// unknown_action when the rules that made them dead have changed, and returns how
// many count now. Each is classified once by the same rules. It is meant to be
// called again and again, and may be called by several at once.
func AutoRetry(ctx context.Context, pool *pgxpool.Pool) (retried int, err error) {
	count := func(o Outcome) {
		if o.State == "retried" && !o.Before {
			retried++
		}
	}
	err = retryPages(ctx, pool, "odometer", count, func(after odometer.Position) (pgx.Rows, error) {
		return pool.Query(ctx, changedSQL, after.Epoch, after.Seq, pageSize)
	})
	return retried, err
}
