package audit

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// sums is one counter beside what it must be.
type sums struct {
	Tenant  uuid.UUID
	Agent   string
	Period  time.Time
	Events  *int64 // sum of the events and of what was removed; nil for none
	Counter *int64
	Total   *int64 // of a closed period, what was frozen
	Closed  bool
	Strange bool // some event may be in the wrong period
	Ahead   bool // it has events beyond what was read
}

// drift is a counter that is not the sum of its events.
type drift struct {
	Tenant uuid.UUID
	Agent  string
	Period time.Time
}

// maxDrifted bounds the counters that one Reconcile deals with.
const maxDrifted = 100_000

// One pass over the events. Their times and places are looked at beside the
// sum, so that only groups with an event outside of its period are looked into.
const sumsSQL = `
select
    coalesce(e.tenant_id, r.tenant_id, c.tenant_id) as tenant,
    coalesce(e.agent, r.agent, c.agent) as agent,
    coalesce(e.period_start, r.period_start, c.period_start) as period,
    case when e.quantity is null and r.quantity is null then null
        else (coalesce(e.quantity, 0) + coalesce(r.quantity, 0))::bigint end as events,
    c.count as counter,
    t.count as total,
    coalesce(p.status = 'closed', false) as closed,
    e.quantity is not null and (
        p.tenant_id is null
        or e.first_occurred < p.period_start
        or e.last_occurred >= p.period_end
        or e.last_epoch > p.closed_epoch
        or e.last_seq > p.closed_seq
    ) is true as strange,
    coalesce(e.last > (select max((stream_epoch::bigint << 40) + seq) from stream_positions), e.last is not null) as ahead
from (
    select
        tenant_id,
        agent,
        period_start,
        sum(quantity) as quantity,
        min(occurred_at) as first_occurred,
        max(occurred_at) as last_occurred,
        max(stream_epoch) as last_epoch,
        max(stream_seq) as last_seq,
        max((stream_epoch::bigint << 40) + stream_seq) as last
    from usage_events/* of a tenant */
    group by tenant_id, agent, period_start
) e
full join (select * from usage_removed/* of a tenant */) r
    on r.tenant_id = e.tenant_id and r.agent = e.agent and r.period_start = e.period_start
full join (select * from usage_counters/* of a tenant */) c
    on c.tenant_id = coalesce(e.tenant_id, r.tenant_id)
    and c.agent = coalesce(e.agent, r.agent)
    and c.period_start = coalesce(e.period_start, r.period_start)
left join billing_periods p
    on p.tenant_id = coalesce(e.tenant_id, r.tenant_id, c.tenant_id)
    and p.period_start = coalesce(e.period_start, r.period_start, c.period_start)
left join period_totals t
    on t.tenant_id = p.tenant_id
    and t.period_start = p.period_start
    and t.agent = coalesce(e.agent, r.agent, c.agent)`

// compareCounters compares every counter with its events, in one snapshot.
func (a *auditor) compareCounters(ctx context.Context) error {
	a.step("events and counters")
	sql, args := sumsSQL, []any{}
	if a.Tenant != nil {
		sql, args = strings.ReplaceAll(sql, "/* of a tenant */", " where tenant_id = $1"), []any{*a.Tenant}
	}
	var strange []drift
	var unequal []sums
	err := pgx.BeginTxFunc(ctx, a.Pool, snapshot, func(tx pgx.Tx) error {
		rows, _ := tx.Query(ctx, sql, args...)
		var s sums
		_, err := pgx.ForEachRow(rows, []any{
			&s.Tenant, &s.Agent, &s.Period, &s.Events, &s.Counter, &s.Total, &s.Closed, &s.Strange, &s.Ahead,
		}, func() error {
			if orZero(s.Events) == orZero(s.Counter) {
				a.report.equal(eventsCounters, 1)
			} else {
				unequal = append(unequal, s)
			}
			if s.Ahead {
				a.tellAhead(&s)
			}
			if s.Strange {
				strange = append(strange, drift{s.Tenant, s.Agent, s.Period.UTC()})
			}
			s.Events, s.Counter, s.Total = nil, nil, nil
			return nil
		})
		if err != nil {
			return err
		}
		return a.comparePlaces(ctx, tx, strange)
	})
	if err != nil {
		return fmt.Errorf("compare events and counters: %w", err)
	}
	for i := range unequal {
		a.tellDrift(&unequal[i])
	}
	if a.Drift != nil && a.Tenant == nil {
		a.Drift(int64(len(unequal)))
	}
	return nil
}

// tellAhead books events that nobody has read yet: positions and events move
// together, so there are none.
func (a *auditor) tellAhead(s *sums) {
	tenant, period := s.Tenant, s.Period.UTC()
	a.report.differs(streamEvents, Difference{
		Kind: EventUnknown, Tenant: &tenant, Agent: s.Agent, Period: &period,
		Expected: "no event beyond what was read of the stream", Found: "one or more",
		Cause:  "rows were written by hand",
		Repair: byHand("no repair is defined: no message of the stream says this; delete the rows of the tenant whose stream_seq is beyond stream_positions, then: odometer reconcile --tenant %s", tenant),
	})
}

// tellDrift books a counter that differs, with what repairs it.
func (a *auditor) tellDrift(s *sums) {
	tenant, period := s.Tenant, s.Period.UTC()
	events, counter := orZero(s.Events), orZero(s.Counter)
	if len(a.drifted) < maxDrifted {
		a.drifted = append(a.drifted, drift{tenant, s.Agent, period})
	}
	d := Difference{
		Kind: CounterDiffers, Tenant: &tenant, Agent: s.Agent, Period: &period,
		Expected: fmt.Sprintf("%d, the sum of its events", events), Found: fmt.Sprint(counter),
		Cause: "the counter was changed by hand, or an event was",
	}
	args := []string{"reconcile", "--tenant", tenant.String()}
	switch {
	case s.Counter == nil:
		d.Kind, d.Found, d.Cause = CounterMissing, "no counter", "its row was deleted"
	case s.Events == nil:
		d.Kind, d.Expected, d.Cause = CounterExtra, "no counter, for there are no events", "its row was written by hand, or all of its events were deleted or moved"
	}
	switch {
	case !a.report.proven(s.Tenant):
		d.Cause = "this tenant's events are not what the stream says: see there"
		d.Repair = byHand("first what stream and events say, then: odometer reconcile --tenant %s", tenant)
	case s.Closed && s.Total != nil && *s.Total != events:
		d.Repair = byHand("no repair is defined: the period is closed with %d, which its events do not bear out", *s.Total)
	case a.beyond(period):
		d.Repair = command(append(args, "--force")...).note(" (the stream no longer holds the period's first messages: nothing proves its events)")
	case !within(events, counter, smallDrift):
		d.Repair = command(append(args, "--force")...).note(" (the drift is 5 % or more)")
	default:
		d.Repair = command(args...)
	}
	a.report.differs(eventsCounters, d)
}

// beyond reports whether a period began before the first message that the
// stream still holds: that its events are all there cannot be proven then.
func (a *auditor) beyond(period time.Time) bool {
	return a.at.info != nil && a.at.info.State.FirstSeq > 1 && period.Before(a.at.info.State.FirstTime)
}

func orZero(n *int64) int64 {
	if n == nil {
		return 0
	}
	return *n
}

// Bounds of a drift, in hundredths of what the events come to.
const (
	smallDrift   = 5 // from here on only by --force
	alertedAbove = 1 // operators are told of more than this
)

// within reports whether counter is less than percent away from events.
func within(events, counter, percent int64) bool {
	off := counter - events
	if off < 0 {
		off = -off
	}
	return float64(off)*100 < float64(percent)*float64(max(events, 0))
}
