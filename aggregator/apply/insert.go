package apply

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"odometer"
)

// Advance says how a transaction moves its partition's position, under which
// rules, and what it does to counters.
type Advance struct {
	From          odometer.Position // where the position must stand
	To            int64             // the sequence that it moves to
	StoredAt      *time.Time        // of the message at To, if known
	CompleteUntil *time.Time        // see stream_positions.complete_until
	RulesVersion  int64             // that the partition must have
	LeaveCounters bool              // the caller sets the counters itself
}

// Insert moves the position, inserts the events whose keys are new, adds them to
// the counters and finds out what the other messages of the batch are. The
// transaction is the caller's; the steps, which must answer nothing, run before
// the insert in the same round trip. ErrRulesChanged: nothing was written.
func (a *Applier) Insert(ctx context.Context, conn *pgx.Conn, steps *pgx.Batch, b *Batch, to Advance) error {
	c := newColumns(len(b.Events))
	for _, i := range b.Events {
		c.add(i)
	}
	registerColumns(conn)
	before := steps.Len()
	steps.Queue(InsertSQL,
		a.Partition, to.From.Epoch, to.From.Seq, to.RulesVersion, to.To, to.StoredAt, to.CompleteUntil,
		&c.tenant, &c.id, &c.agent, &c.kind, &c.action, &c.resource, &c.quantity, &c.key,
		&c.metadata, &c.occurred, &c.recorded, &c.period, &c.epoch, &c.seq, to.LeaveCounters)
	answers := conn.SendBatch(ctx, steps)
	defer func() { _ = answers.Close() }() // for the returns with an error
	for range before {
		if _, err := answers.Exec(); err != nil {
			return fmt.Errorf("begin to count: %w", err)
		}
	}
	fresh, err := b.scan(answers.QueryRow(), to.LeaveCounters)
	if err == nil {
		err = answers.Close()
	}
	if err != nil {
		return fmt.Errorf("count %d events of partition %d: %w", len(b.Events), a.Partition, err)
	}
	return a.resolveConflicts(ctx, conn, b, fresh)
}

// InsertSQL is the one statement that makes events. The position is advanced
// first: that takes the partition's lock, and when it moves nothing, nothing
// else is done. New is what the primary key lets in; only that is added to the
// counters. Counters that exist are updated, and the missing ones inserted: a
// proposed row is checked against `count >= 0` before a conflict is noticed, so
// an upsert would refuse every correction downwards. With $22 counters stay.
const InsertSQL = `
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
    where not $22::boolean
      and c.tenant_id = a.tenant_id
      and c.agent = a.agent
      and c.period_start = a.period_start
    returning c.tenant_id, c.agent, c.period_start, c.count, a.quantity
),
made as (
    insert into usage_counters (tenant_id, agent, period_start, period_end, count, last_event_at)
    select a.tenant_id, a.agent, a.period_start, p.period_end, a.quantity, a.last_event_at
    from added a
    join billing_periods p on p.tenant_id = a.tenant_id and p.period_start = a.period_start
    where not $22
      and not exists (
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

// scan reads what InsertSQL returns: how many of the events were new.
func (b *Batch) scan(row pgx.Row, leaveCounters bool) (fresh int, err error) {
	var advanced, sums, counters int
	var tenants []uuid.UUID
	var agents []string
	var overages []int64
	err = row.Scan(&advanced, &fresh, &sums, &counters, &tenants, &agents, &overages)
	switch {
	case err != nil:
		return 0, err
	case advanced == 0:
		return 0, ErrRulesChanged // or the position was moved: who reads both again finds out
	case sums != counters && !leaveCounters:
		return 0, fmt.Errorf("%d sums found %d counters", sums, counters)
	}
	for n := range tenants {
		b.OverLimit = append(b.OverLimit, OverLimit{tenants[n], agents[n], overages[n]})
	}
	return fresh, nil
}
