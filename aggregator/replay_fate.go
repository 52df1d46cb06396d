package aggregator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"odometer"
)

// errAlone and errJudged are reasons for which a step of a replay is done
// again: cut in parts, or with what was found out about its correction.
var (
	errAlone  = errors.New("a correction must be judged alone")
	errJudged = errors.New("a correction was judged")
)

// A correction downwards is counted in a batch of its own (see
// item.correction), so `batches` tells what became of it when it was read
// first. Within an epoch the batches of a partition do not overlap; those of
// epochs before the message's own read another message at its sequence.
const fatesSQL = `
select distinct on (c.ord) c.ord, f.messages, f.events, f.dead
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
) f
where f.from_seq <= c.stream_seq
order by c.ord, e.epoch`

// recallFates moves the corrections that were refused when they were read to
// the dead, and tells those of which nobody knows: they are judged by the
// balance. Retried letters counted; their rows say so.
func (r *replay) recallFates(ctx context.Context, conn *pgx.Conn, l *lane, j *judged, t *tally) (byBalance []placed, err error) {
	var epochs []int32
	var seqs []int64
	var asked []placed
	rest := j.events[:0:0]
	for _, p := range j.events {
		if !p.correction() || p.retried != nil {
			rest = append(rest, p)
			continue
		}
		asked = append(asked, p)
		epochs, seqs = append(epochs, p.event.Position.Epoch), append(seqs, p.event.Position.Seq)
	}
	if len(asked) == 0 {
		return nil, nil
	}
	fates := make([]string, len(asked))
	rows, _ := conn.Query(ctx, fatesSQL, l.partition, epochs, seqs)
	var ord, messages, events, dead int
	_, err = pgx.ForEachRow(rows, []any{&ord, &messages, &events, &dead}, func() error {
		switch {
		case messages == 1 && events == 1:
			fates[ord-1] = "counted"
		case messages == 1 && dead == 1:
			fates[ord-1] = "refused"
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look what became of %d corrections: %w", len(asked), err)
	}
	for n, p := range asked {
		switch fates[n] {
		case "refused":
			t.dead = append(t.dead, deadLetter{p.item, *refusedAgain(p.item, p.period)})
			continue
		case "":
			byBalance = append(byBalance, p)
		}
		rest = append(rest, p)
	}
	j.events = rest
	j.sort()
	return byBalance, nil
}

// refusedAgain is the rejection of a correction below zero. The balance that
// it met is not looked up again.
func refusedAgain(i *item, period time.Time) *odometer.Rejection {
	return &odometer.Rejection{Reason: odometer.NegativeBalance, Detail: fmt.Sprintf(
		"quantity %d would bring the balance in the period from %s below zero", i.event.Quantity, period.Format(time.RFC3339))}
}

// What was counted before a position: a retried letter when it was retried.
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

// weigh judges a correction by the balance that it met in its place, once all
// before it is restored. errJudged: it is refused.
func weigh(ctx context.Context, conn *pgx.Conn, p placed) error {
	e := &p.event
	var balance int64
	err := conn.QueryRow(ctx, balanceBeforeSQL, e.Tenant, e.Agent, p.period, e.Position.Epoch, e.Position.Seq).Scan(&balance)
	if err != nil {
		return fmt.Errorf("read the balance of %s/%s: %w", e.Tenant, e.Agent, err)
	}
	if balance+e.Quantity >= 0 {
		return nil
	}
	p.reject = belowZero(e.Quantity, balance, p.period)
	return errJudged
}
