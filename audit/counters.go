package audit

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// counterKey identifies a counter.
type counterKey struct {
	Tenant uuid.UUID
	Agent  string
	Period time.Time
}

// difference is a difference about the counter's agent and period.
func (k counterKey) difference(kind string) Difference {
	k.Period = k.Period.UTC()
	return Difference{Kind: kind, Tenant: &k.Tenant, Agent: k.Agent, Period: &k.Period}
}

// counterSums is a counter beside what it must be.
type counterSums struct {
	counterKey
	Events    *int64 // sum of the events and of what was removed; nil for none
	Counter   *int64
	Total     *int64 // of a closed period, what was frozen
	Closed    bool
	Misplaced bool // an event may be in the wrong period
	Ahead     bool // it has events beyond what was read
}

// maxDrifted bounds the counters that one Reconcile repairs.
const maxDrifted = 100_000

// One pass over the events. The bounds of their times and positions come with the
// sums, so that only groups with an event outside of its period are read again.
const sumsSQL = `
select
    tenant_id,
    agent,
    period_start,
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
    ) is true as misplaced,
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
    from usage_events
    where $1::uuid is null or tenant_id = $1
    group by tenant_id, agent, period_start
) e
full join (select * from usage_removed where $1::uuid is null or tenant_id = $1) r using (tenant_id, agent, period_start)
full join (select * from usage_counters where $1::uuid is null or tenant_id = $1) c using (tenant_id, agent, period_start)
left join billing_periods p using (tenant_id, period_start)
left join period_totals t using (tenant_id, agent, period_start)`

// compareCounters compares every counter with its events, in one snapshot.
func (a *auditor) compareCounters(ctx context.Context) error {
	a.step("events and counters")
	var suspects []counterKey
	var unequal []counterSums
	err := pgx.BeginTxFunc(ctx, a.options.Pool, readOnly, func(tx pgx.Tx) error {
		rows, _ := tx.Query(ctx, sumsSQL, a.scope.Tenant)
		var s counterSums
		_, err := pgx.ForEachRow(rows, []any{
			&s.Tenant, &s.Agent, &s.Period, &s.Events, &s.Counter, &s.Total, &s.Closed, &s.Misplaced, &s.Ahead,
		}, func() error {
			s.Period = s.Period.UTC()
			if orZero(s.Events) == orZero(s.Counter) {
				a.report.addEqual(eventsCounters, 1)
			} else {
				unequal = append(unequal, s)
			}
			if s.Ahead {
				a.reportAhead(&s)
			}
			if s.Misplaced {
				suspects = append(suspects, s.counterKey)
			}
			s.Events, s.Counter, s.Total = nil, nil, nil
			return nil
		})
		if err != nil {
			return err
		}
		return a.comparePeriods(ctx, tx, suspects)
	})
	if err != nil {
		return fmt.Errorf("compare events and counters: %w", err)
	}
	for i := range unequal {
		a.reportDrift(&unequal[i])
	}
	if a.options.Drift != nil && a.scope.Tenant == nil {
		a.options.Drift(int64(len(unequal)))
	}
	return nil
}

// reportAhead reports events beyond the positions. Events and positions are
// written together, so there are none.
func (a *auditor) reportAhead(s *counterSums) {
	d := s.difference(EventWithoutMessage)
	d.Expected, d.Found, d.Cause = "no event beyond what was read of the stream", "one or more", "rows were written by hand"
	d.Repair = byHand("no repair is defined: no message of the stream says this; delete the rows of the tenant whose stream_seq is beyond stream_positions, then: odometer reconcile --tenant %s", s.Tenant)
	a.report.addDifference(streamEvents, d)
}

// reportDrift reports a counter that is not the sum of its events.
func (a *auditor) reportDrift(s *counterSums) {
	if len(a.drifted) < maxDrifted {
		a.drifted = append(a.drifted, s.counterKey)
	}
	d := s.difference(CounterDiffers)
	d.Expected, d.Found = fmt.Sprintf("%d, the sum of its events", orZero(s.Events)), fmt.Sprint(orZero(s.Counter))
	d.Cause = "the counter was changed by hand, or an event was"
	switch {
	case s.Counter == nil:
		d.Kind, d.Found, d.Cause = CounterMissing, "no counter", "its row was deleted"
	case s.Events == nil:
		d.Kind, d.Expected, d.Cause = CounterExtra, "no counter, for there are no events", "its row was written by hand, or all of its events were deleted or moved"
	}
	args := []string{"reconcile", "--tenant", s.Tenant.String()}
	force := command(append(args, "--force")...)
	switch {
	case !a.report.proven(s.Tenant):
		d.Cause = "this tenant's events are not what the stream says: see there"
		d.Repair = byHand("first what stream and events say, then: odometer reconcile --tenant %s", s.Tenant)
	case s.Closed && s.Total != nil && *s.Total != orZero(s.Events):
		d.Repair = byHand("no repair is defined: the period is closed with %d, which its events do not bear out", *s.Total)
	case a.at.beginsBefore(s.Period):
		d.Repair = force.note(" (the stream no longer holds the period's first messages: nothing proves its events)")
	case !s.driftBelow(forceFrom):
		d.Repair = force.note(" (the drift is 5 % or more)")
	default:
		d.Repair = command(args...)
	}
	a.report.addDifference(eventsCounters, d)
}

// Bounds of a drift, in percent of the sum of the events.
const (
	forceFrom  = 5 // from here on only --force repairs it
	alertAbove = 1 // operators are alerted to more than this
)

// driftBelow reports whether the counter is less than percent away from the sum
// of its events.
func (s *counterSums) driftBelow(percent int64) bool {
	events := orZero(s.Events)
	return 100*math.Abs(float64(orZero(s.Counter)-events)) < float64(percent)*float64(max(events, 0))
}
