package aggregator

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// tally is what became of a batch that was committed.
type tally struct {
	counted    []*item // the new events
	duplicates int     // repeats, also of what was read before
	reread     int     // of them, the very messages that are stored events
	dead       []deadLetter
	crossed    []crossing
}

// units is what the batch adds to the counters.
func (t *tally) units() (sum int64) {
	for _, it := range t.counted {
		sum += it.event.Quantity
	}
	return sum
}

// crossing is a counter that this batch brought beyond its plan's limit.
type crossing struct {
	tenant  uuid.UUID
	agent   string
	overage int64
}

// count is the one way into the books: a transaction that moves the position
// from where this reader stands, and with it everything that the batch says.
// errRulesChanged: the terms have changed since the batch was judged. errMoved: the
// position is not where this reader believes. Any error of the last step may
// leave the outcome unknown; the position will tell.
func (w *worker) count(ctx context.Context, b *batch, j *judged) (*tally, error) {
	conn, err := w.a.Pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to count: %w", err)
	}
	defer conn.Release() // closes a connection that is still inside a transaction, which undoes it
	t, events := &tally{dead: j.dead}, j.events
	if w.repeating {
		if events, err = w.setRepeatsAside(ctx, conn.Conn(), events, t); err != nil {
			return nil, err
		}
	}
	if err := w.insert(ctx, conn.Conn(), b, j, events, t); err != nil {
		_, _ = conn.Exec(ctx, "rollback") // saves the connection if it can be saved
		return nil, err
	}
	return t, w.commit(ctx, conn.Conn(), b, t)
}

// The position is advanced first: that takes the partition's lock, and where
// it moves nothing, nothing else is done. What is new is what the primary key
// lets in; only that is added to the counters. Counters that exist are updated,
// and the missing ones inserted: a proposed row is checked against
// `count >= 0` before a conflict is noticed, so an upsert would refuse every
// correction downwards.
const countSQL = `
with advanced as (
    update stream_positions
    set seq = $5,
        stored_at = $6,
        complete_until = greatest(complete_until, $7)
    where partition = $1
      and stream_epoch = $2
      and seq = $3
      and rules_version = $4
    returning partition
),
fresh as (
    insert into usage_events (
        tenant_id, event_id, agent, kind, action_type, resource_id, quantity, idempotency_key,
        metadata, occurred_at, recorded_at, period_start, stream_epoch, stream_seq
    )
    select
        tenant_id, event_id, agent, kind, action_type, resource_id, quantity, idempotency_key,
        metadata::jsonb, occurred_at, recorded_at, period_start, stream_epoch, stream_seq
    from unnest(
        $8::uuid[], $9::uuid[], $10::text[], $11::text[], $12::text[], $13::text[], $14::bigint[], $15::text[],
        $16::text[], $17::timestamptz[], $18::timestamptz[], $19::timestamptz[], $20::integer[], $21::bigint[]
    ) as batch (
        tenant_id, event_id, agent, kind, action_type, resource_id, quantity, idempotency_key,
        metadata, occurred_at, recorded_at, period_start, stream_epoch, stream_seq
    )
    where exists (select from advanced)
    on conflict (tenant_id, event_id) do nothing
    returning tenant_id, agent, period_start, quantity, occurred_at
),
added as (
    select
        tenant_id,
        agent,
        period_start,
        count(*) as events,
        sum(quantity)::bigint as quantity,
        max(occurred_at) as last_event_at
    from fresh
    group by tenant_id, agent, period_start
),
raised as (
    update usage_counters c
    set count = c.count + a.quantity,
        last_event_at = greatest(c.last_event_at, a.last_event_at),
        updated_at = now()
    from added a
    where c.tenant_id = a.tenant_id
      and c.agent = a.agent
      and c.period_start = a.period_start
    returning c.tenant_id, c.agent, c.period_start, c.count, a.quantity
),
made as (
    insert into usage_counters (tenant_id, agent, period_start, period_end, count, last_event_at)
    select a.tenant_id, a.agent, a.period_start, p.period_end, a.quantity, a.last_event_at
    from added a
    join billing_periods p on p.tenant_id = a.tenant_id and p.period_start = a.period_start
    where not exists (
        select from usage_counters c
        where c.tenant_id = a.tenant_id and c.agent = a.agent and c.period_start = a.period_start
    )
    returning tenant_id, agent, period_start, count, count as quantity
),
crossed as (
    select c.tenant_id, c.agent, c.count - l."limit" as overage
    from (table raised union all table made) c
    join allowances l on l.agent = c.agent and c.count > l."limit" and c.count - c.quantity <= l."limit"
    join billing_periods p on p.tenant_id = c.tenant_id and p.period_start = c.period_start and p.plan_id = l.plan_id
    where not p.trial
)
select
    (select count(*) from advanced),
    (select coalesce(sum(events), 0)::bigint from added),
    (select count(*) from added),
    (select count(*) from raised) + (select count(*) from made),
    array(select tenant_id from crossed),
    array(select agent from crossed),
    array(select overage from crossed)`

// insert opens the transaction and does everything but the bookkeeping.
func (w *worker) insert(ctx context.Context, conn *pgx.Conn, b *batch, j *judged, events []placed, t *tally) error {
	var steps pgx.Batch
	steps.Queue("begin")
	fresh, err := w.insertAfter(ctx, conn, &steps, b, j, events, t)
	if err != nil {
		return err
	}
	return w.sortOut(ctx, conn, events, j.homeless, fresh, t)
}

// insertAfter takes the steps, which answer nothing, then advances the
// position and counts; it tells how many of the events were new.
func (w *worker) insertAfter(ctx context.Context, conn *pgx.Conn, steps *pgx.Batch, b *batch, j *judged, events []placed, t *tally) (fresh int, err error) {
	c := newColumns(len(events))
	for _, p := range events {
		c.add(p.item, p.period)
	}
	before := steps.Len()
	takeColumns(conn)
	steps.Queue(countSQL,
		w.partition, w.at.Epoch, w.at.Seq, j.version, b.seq, nullTime(b.storedAt), nullTime(b.completeUntil()),
		&c.tenant, &c.id, &c.agent, &c.kind, &c.action, &c.resource, &c.quantity, &c.key,
		&c.metadata, &c.occurred, &c.recorded, &c.period, &c.epoch, &c.seq)
	answers := conn.SendBatch(ctx, steps)
	defer answers.Close()
	for range before {
		if _, err := answers.Exec(); err != nil {
			return 0, fmt.Errorf("begin to count: %w", err)
		}
	}
	if fresh, err = w.readCount(answers, len(events), t); err != nil {
		return 0, err
	}
	if err := answers.Close(); err != nil {
		return 0, fmt.Errorf("count %d events of partition %d: %w", len(events), w.partition, err)
	}
	return fresh, nil
}

// readCount reads what countSQL answers.
func (w *worker) readCount(answers pgx.BatchResults, events int, t *tally) (fresh int, err error) {
	var advanced, sums, counters int
	var tenants []uuid.UUID
	var agents []string
	var overages []int64
	err = answers.QueryRow().Scan(&advanced, &fresh, &sums, &counters, &tenants, &agents, &overages)
	switch {
	case err != nil:
		return 0, fmt.Errorf("count %d events of partition %d: %w", events, w.partition, err)
	case advanced == 0:
		return 0, errRulesChanged // or moved; whoever reads the terms again finds out
	case sums != counters:
		return 0, fmt.Errorf("count %d events of partition %d: %d sums found %d counters", events, w.partition, sums, counters)
	}
	for i := range tenants {
		t.crossed = append(t.crossed, crossing{tenants[i], agents[i], overages[i]})
	}
	return fresh, nil
}
