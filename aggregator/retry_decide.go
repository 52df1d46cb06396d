package aggregator

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"odometer"
)

// Who waited for the lock sees the books as they were before: the terms rise,
// so that a reader's batch that waited is judged again.
const lockPlaceSQL = `
update stream_positions
set rules_version = rules_version + 1
where partition = $1
  and rules_version = $2
returning stream_epoch, seq, stored_at, rules_version`

// lockPlace takes a partition's lock if its terms are still those. errRulesChanged:
// they are not.
func lockPlace(ctx context.Context, tx pgx.Tx, partition int, version int64) (p place, err error) {
	rows, _ := tx.Query(ctx, lockPlaceSQL, partition, version)
	locked := false
	_, err = pgx.ForEachRow(rows, []any{&p.Epoch, &p.Seq, &p.storedAt, &p.rulesVersion}, func() error {
		locked = true
		return nil
	})
	switch {
	case err != nil:
		return p, fmt.Errorf("lock partition %d: %w", partition, err)
	case !locked:
		return p, errRulesChanged
	}
	return p, nil
}

// decide is the transaction of a retry: what the letters count and what their
// rows say of it are committed together.
func (r *retrier) decide(ctx context.Context, w *worker, b *batch, j *judged) error {
	var told []Outcome
	version := j.version
	err := pgx.BeginFunc(ctx, r.pool, func(tx pgx.Tx) error {
		p, err := lockPlace(ctx, tx, w.partition, version)
		if err != nil {
			return err
		}
		open, decided, err := stillOpen(ctx, tx, b)
		if err != nil {
			return err
		}
		told = decided
		t, settled, err := w.countRetried(ctx, tx.Conn(), p, j.only(open, p.rulesVersion))
		if err != nil {
			return err
		}
		done, err := r.book(ctx, tx, w, p, t, settled)
		told = append(told, done...)
		return err
	})
	if err != nil {
		return err
	}
	w.rules.version = version + 1 // raised by nobody but us
	for _, o := range told {
		r.each(o)
	}
	return nil
}

const stillOpenSQL = `
select d.stream_epoch, d.stream_seq, d.state, d.reason, d.detail
from dead_letters d
join unnest($1::integer[], $2::bigint[]) as l (stream_epoch, stream_seq) using (stream_epoch, stream_seq)
order by d.stream_epoch, d.stream_seq
for update of d`

// stillOpen locks the letters, and tells which of them are open and what became
// of the others since they were looked up.
func stillOpen(ctx context.Context, tx pgx.Tx, b *batch) (open map[odometer.Position]bool, decided []Outcome, err error) {
	epochs, seqs := positionsOf(b)
	rows, _ := tx.Query(ctx, stillOpenSQL, epochs, seqs)
	found, err := collectOutcomes(rows)
	if err != nil {
		return nil, nil, fmt.Errorf("lock %d dead letters: %w", len(b.items), err)
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

func positionsOf(b *batch) (epochs []int32, seqs []int64) {
	for i := range b.items {
		at := b.items[i].event.Position
		epochs, seqs = append(epochs, at.Epoch), append(seqs, at.Seq)
	}
	return epochs, seqs
}

// only is the judgement of the letters that are open, under the locked terms.
func (j *judged) only(open map[odometer.Position]bool, version int64) *judged {
	some := &judged{version: version}
	for _, p := range j.events {
		if open[p.event.Position] {
			some.events = append(some.events, p)
		}
	}
	for _, i := range j.homeless {
		if open[i.event.Position] {
			some.homeless = append(some.homeless, i)
		}
	}
	for _, d := range j.dead {
		if open[d.event.Position] {
			some.dead = append(some.dead, d)
		}
	}
	return some
}

// countRetried counts under the partition's lock, which stays where it is.
// Settled are the letters that are events now, or repeat one.
func (w *worker) countRetried(ctx context.Context, conn *pgx.Conn, p place, j *judged) (t *tally, settled []*item, err error) {
	t = &tally{dead: j.dead}
	if len(j.events) > 0 {
		w.at = p.Position
		here := &batch{mark: mark{seq: p.Seq}}
		if p.storedAt != nil {
			here.storedAt = *p.storedAt
		}
		fresh, err := w.insertAfter(ctx, conn, &pgx.Batch{}, here, j, j.events, t)
		if err != nil {
			return nil, nil, err
		}
		if err := w.sortOut(ctx, conn, j.events, nil, fresh, t); err != nil {
			return nil, nil, err
		}
	}
	if err := w.sortOutHomeless(ctx, conn, j.homeless, t); err != nil {
		return nil, nil, err
	}
	dead := map[*item]bool{}
	for _, d := range t.dead {
		dead[d.item] = true
	}
	for _, e := range j.events {
		if !dead[e.item] {
			settled = append(settled, e.item)
		}
	}
	for _, i := range j.homeless {
		if !dead[i] {
			settled = append(settled, i)
		}
	}
	return t, settled, nil
}

// sortOutHomeless tells letters that no period takes from those that repeat an
// event. Unlike a message that is read, a letter is judged after everything
// that counts, so whoever has its key had it first.
func (w *worker) sortOutHomeless(ctx context.Context, conn *pgx.Conn, homeless []*item, t *tally) error {
	if len(homeless) == 0 {
		return nil
	}
	claims, err := loadClaims(ctx, conn, homeless, len(homeless))
	if err != nil {
		return err
	}
	for n, i := range homeless {
		if !t.settle(i, claims, n) {
			t.dead = append(t.dead, w.unhoused(i))
		}
	}
	return nil
}

// unhoused is the dead letter of a message that no period takes.
func (w *worker) unhoused(i *item) deadLetter {
	return deadLetter{i, odometer.Rejection{Reason: odometer.NoBillingPeriod, Detail: w.rules.homelessness(&i.event)}}
}

// A letter whose own position has the event is the one that counts.
const bookSettledSQL = `
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

const bookStillDeadSQL = `
update dead_letters d
set reason = s.reason,
    detail = s.detail,
    judged_by = ` + judgedBySQL + `
from unnest($1::integer[], $2::bigint[], $3::text[], $4::text[]) as s (stream_epoch, stream_seq, reason, detail)
where d.stream_epoch = s.stream_epoch
  and d.stream_seq = s.stream_seq
returning d.stream_epoch, d.stream_seq, d.state, d.reason, d.detail`

// book writes into the letters what became of them.
func (r *retrier) book(ctx context.Context, tx pgx.Tx, w *worker, p place, t *tally, settled []*item) ([]Outcome, error) {
	var closed []*time.Time
	var tenants, events []uuid.UUID
	b := &batch{}
	for _, i := range settled {
		b.items = append(b.items, *i)
		tenants, events = append(tenants, i.event.Tenant), append(events, i.id)
		closed = append(closed, w.rules.closedUntil(i.event.Tenant))
	}
	epochs, seqs := positionsOf(b)
	rows, _ := tx.Query(ctx, bookSettledSQL, epochs, seqs, tenants, events, closed, p.Epoch, p.Seq, r.who)
	told, err := collectOutcomes(rows)
	if err != nil {
		return nil, fmt.Errorf("book %d retried dead letters: %w", len(settled), err)
	}
	b = &batch{}
	var reasons, details []string
	for _, d := range t.dead {
		b.items = append(b.items, *d.item)
		reasons, details = append(reasons, string(d.Reason)), append(details, storable(d.Detail))
	}
	epochs, seqs = positionsOf(b)
	rows, _ = tx.Query(ctx, bookStillDeadSQL, epochs, seqs, reasons, details)
	still, err := collectOutcomes(rows)
	if err != nil {
		return nil, fmt.Errorf("book %d dead letters again: %w", len(t.dead), err)
	}
	return append(told, still...), nil
}
