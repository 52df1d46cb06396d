package replay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"odometer"
	"odometer/aggregator/apply"
	"odometer/aggregator/position"
)

// apply restores what is missing of some messages of a partition, or of some
// dead letters that were retried: their rows say that they count.
func (r *replay) apply(ctx context.Context, p *partition, items []apply.Item) error {
	if items[0].Retry == nil {
		known, err := p.applier.KnownDeadLetters(ctx, items)
		if err != nil {
			return err
		}
		// A copy: p.next shows how far the replay is done, also after an error.
		rest := slices.DeleteFunc(slices.Clone(items), func(i apply.Item) bool { return known[i.Event.Position] != nil })
		r.done.DeadLetters += int64(len(items) - len(rest))
		items = rest
	}
	if len(items) == 0 {
		return nil
	}
	err := p.applier.Apply(ctx, items, func(ctx context.Context, b *apply.Batch) error { return r.step(ctx, p, b) })
	if err != nil {
		return fmt.Errorf("replay messages %d to %d of partition %d: %w",
			items[0].Event.Position.Seq, items[len(items)-1].Event.Position.Seq, p.applier.Partition, err)
	}
	return nil
}

// step finds out what is missing of a batch and restores it in one transaction.
// When nothing is, it takes no lock.
func (r *replay) step(ctx context.Context, p *partition, b *apply.Batch) error {
	pooled, err := r.options.Pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connect to replay: %w", err)
	}
	defer pooled.Release()
	conn := pooled.Conn()
	if err := p.applier.DropKnownDuplicates(ctx, conn, b); err != nil {
		return err
	}
	byBalance, err := recallCorrections(ctx, conn, p, b)
	switch {
	case err != nil:
		return err
	case r.options.DryRun:
		r.dryRun(p, b)
	case len(b.Events)+len(b.NoPeriod)+len(b.Dead) > 0:
		err := r.restore(ctx, conn, p, b, byBalance)
		if errors.Is(err, apply.ErrRulesChanged) {
			return cmp.Or(r.checkEpoch(ctx, p), err)
		}
		if err != nil {
			return err
		}
	}
	r.tally(b)
	return nil
}

// restore is the transaction of a replay.
func (r *replay) restore(ctx context.Context, conn *pgx.Conn, p *partition, b *apply.Batch, byBalance []*apply.Item) error {
	if len(byBalance) > 0 {
		if len(b.Items) > 1 {
			return apply.ErrSplit // all before it must be restored first
		}
		rejection, err := checkBalance(ctx, conn, byBalance[0])
		if err != nil {
			return err
		}
		if rejection != nil {
			b.Events, b.Dead = nil, append(b.Dead, apply.DeadLetter{Item: byBalance[0], Rejection: *rejection})
		}
	}
	if err := r.lock.Take(ctx, r.options.Pool, p.applier.Partition); err != nil {
		return err
	}
	var totals []counterTotal
	err := p.applier.WithLock(ctx, conn, b, func(tx pgx.Tx, stay apply.Advance) error {
		if stay.From.Epoch != p.begin.Epoch {
			return errOtherEpoch
		}
		stay.LeaveCounters = lowers(b.Events)
		err := p.applier.Insert(ctx, tx.Conn(), &pgx.Batch{}, b, stay)
		if err != nil {
			return err
		}
		if totals, err = r.counters.set(ctx, tx, b.Inserted, stay.LeaveCounters); err != nil {
			return err
		}
		return insertDeadLetters(ctx, tx, b.Dead)
	})
	if err == nil {
		r.counters.learn(totals)
	}
	return err
}

// insertDeadLetters stores what cannot be an event. A dead letter that was
// retried stays what it is.
func insertDeadLetters(ctx context.Context, tx pgx.Tx, dead []apply.DeadLetter) error {
	var steps pgx.Batch
	apply.QueueDeadLetters(&steps, dead)
	if steps.Len() == 0 {
		return nil
	}
	if err := tx.SendBatch(ctx, &steps).Close(); err != nil {
		return fmt.Errorf("store %d dead letters: %w", len(dead), err)
	}
	return nil
}

var errOtherEpoch = fmt.Errorf("%w: the stream lost its tail or was created again meanwhile: run this again", ErrUnfit)

// checkEpoch finds out whether a new epoch began, or only the rules have changed.
func (r *replay) checkEpoch(ctx context.Context, p *partition) error {
	at, err := position.Of(ctx, r.options.Pool, p.applier.Partition)
	if err == nil && at.Epoch != p.begin.Epoch {
		err = errOtherEpoch
	}
	return err
}

// tally adds what became of a batch. The event of a retried dead letter is there
// without being an event of the stream.
func (r *replay) tally(b *apply.Batch) {
	if b.Items[0].Retry == nil {
		r.done.Events += int64(b.Reread)
	}
	r.done.Duplicates += int64(b.Duplicates - b.Reread)
	r.done.Applied += int64(len(b.Inserted) + b.NotYet)
	r.done.NewDead += int64(len(b.Dead))
	for _, d := range b.Dead {
		r.done.Dead[d.Rejection.Reason]++
	}
}

// A correction downwards is counted in a batch of its own (see
// apply.Item.Correction), so `batches` shows what became of it when it was read
// first. Within an epoch the batches of a partition do not overlap; those of
// epochs before the message's own read another message at its sequence.
const correctionsSQL = `
select distinct on (c.ord) c.ord, o.messages, o.events, o.dead
from unnest($2::integer[], $3::bigint[]) with ordinality as c (stream_epoch, stream_seq, ord)
join stream_epochs e on e.epoch >= c.stream_epoch
cross join lateral (
    select b.from_seq, b.messages, b.events, b.dead
    from batches b
    where b.partition = $1
      and b.stream_epoch = e.epoch
      and b.to_seq >= c.stream_seq
    order by b.to_seq
    limit 1
) o
where o.from_seq <= c.stream_seq
order by c.ord, e.epoch`

// recallCorrections moves the corrections that were refused when they were read
// to the dead, and returns those of which nothing is known: the balance decides
// about them. Retried dead letters counted; their rows say so.
func recallCorrections(ctx context.Context, conn *pgx.Conn, p *partition, b *apply.Batch) (byBalance []*apply.Item, err error) {
	var epochs []int32
	var seqs []int64
	asked := func(i *apply.Item) bool { return i.Correction() && i.Retry == nil }
	for _, i := range b.Events {
		if asked(i) {
			epochs, seqs = append(epochs, i.Event.Position.Epoch), append(seqs, i.Event.Position.Seq)
		}
	}
	if len(seqs) == 0 {
		return nil, nil
	}
	counted, refused := make([]bool, len(seqs)), make([]bool, len(seqs))
	rows, _ := conn.Query(ctx, correctionsSQL, p.applier.Partition, epochs, seqs)
	var ord, messages, events, dead int
	_, err = pgx.ForEachRow(rows, []any{&ord, &messages, &events, &dead}, func() error {
		counted[ord-1] = messages == 1 && events == 1
		refused[ord-1] = messages == 1 && dead == 1
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find what became of %d corrections: %w", len(seqs), err)
	}
	n, rest := 0, b.Events[:0:0]
	for _, i := range b.Events {
		if asked(i) {
			n++
			switch {
			case refused[n-1]:
				b.Dead = append(b.Dead, apply.DeadLetter{Item: i, Rejection: refusedAgain(i)})
				continue
			case !counted[n-1]:
				byBalance = append(byBalance, i)
			}
		}
		rest = append(rest, i)
	}
	b.Events = rest
	return byBalance, nil
}

// refusedAgain is the rejection of a correction below zero, without the balance
// that it met when it was read.
func refusedAgain(i *apply.Item) odometer.Rejection {
	return odometer.Rejection{Reason: odometer.NegativeBalance, Detail: fmt.Sprintf(
		"quantity %d would bring the balance in the period from %s below zero", i.Event.Quantity, i.Period.Format(time.RFC3339))}
}

// What was counted before a position: a retried dead letter when it was retried.
const balanceBeforeSQL = `
select (
    select coalesce(sum(e.quantity), 0)
    from usage_events e
    left join dead_letters d
        on d.stream_epoch = e.stream_epoch and d.stream_seq = e.stream_seq and d.state = 'retried'
    where e.tenant_id = $1
      and e.agent = $2
      and e.period_start = $3
      and (coalesce(d.retry_epoch, e.stream_epoch), coalesce(d.retry_seq, e.stream_seq)) < ($4, $5)
)::bigint + coalesce((
    select r.quantity
    from usage_removed r
    where r.tenant_id = $1
      and r.agent = $2
      and r.period_start = $3
), 0)`

// checkBalance decides about a correction by the balance that it met at its
// position, once all before it is restored: nil when it counts.
func checkBalance(ctx context.Context, conn *pgx.Conn, i *apply.Item) (*odometer.Rejection, error) {
	e := &i.Event
	var balance int64
	err := conn.QueryRow(ctx, balanceBeforeSQL, e.Tenant, e.Agent, i.Period, e.Position.Epoch, e.Position.Seq).Scan(&balance)
	if err != nil {
		return nil, fmt.Errorf("read the balance of %s/%s: %w", e.Tenant, e.Agent, err)
	}
	if balance+e.Quantity >= 0 {
		return nil, nil
	}
	return apply.BelowZero(i, balance), nil
}

// dryRun finds out what restore would do. What an earlier message would have
// restored is remembered, so that its duplicates are recognised.
func (r *replay) dryRun(p *partition, b *apply.Batch) {
	for _, i := range b.Events {
		content := contentOf(&i.Event)
		switch owner, owned := r.restored[i.ID]; {
		case !owned:
			r.restored[i.ID] = content
			b.Inserted = append(b.Inserted, i)
		case owner == content:
			b.Duplicates++
		default:
			b.Dead = append(b.Dead, apply.DeadLetter{Item: i, Rejection: odometer.Rejection{Reason: odometer.IdempotencyConflict}})
		}
	}
	for _, i := range b.NoPeriod {
		if owner, owned := r.restored[i.ID]; owned && owner == contentOf(&i.Event) {
			b.Duplicates++
			continue
		}
		b.Dead = append(b.Dead, p.applier.NoPeriod(i))
	}
}

// contentOf is a hash of what a duplicate must have in common with its event.
func contentOf(e *odometer.Event) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%q %q %d", e.Agent, e.Action, e.Quantity)
	if e.Resource != nil {
		fmt.Fprintf(h, " %q", *e.Resource)
	}
	return h.Sum64()
}
