package audit

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"odometer"
	"odometer/aggregator/apply"
	"odometer/billing"
)

// suspect is an event that occurred outside of the period it is in, or came after
// that was closed. Late events are like that, and rightly.
type suspect struct {
	counterKey
	id       uuid.UUID
	key      string
	occurred time.Time
	at       odometer.Position // of the message
	retried  bool              // it comes from a dead letter
	closed   *time.Time        // at the retry: the end of the tenant's last closed period
}

// An event that comes from a retried dead letter keeps its own position; the
// dead letter says what was closed at the retry, by which its period was found.
const suspectsSQL = `
select
    e.tenant_id, e.agent, e.period_start, e.event_id, e.idempotency_key, e.occurred_at,
    e.stream_epoch, e.stream_seq,
    d.stream_seq is not null,
    d.retry_closed_until
from unnest($1::uuid[], $2::text[], $3::timestamptz[]) as g (tenant_id, agent, period_start)
join usage_events e
    on e.tenant_id = g.tenant_id and e.agent = g.agent and e.period_start = g.period_start
left join billing_periods p
    on p.tenant_id = e.tenant_id and p.period_start = e.period_start
left join dead_letters d
    on d.stream_epoch = e.stream_epoch and d.stream_seq = e.stream_seq and d.state = 'retried'
where p.tenant_id is null
   or e.occurred_at < p.period_start
   or e.occurred_at >= p.period_end
   or (e.stream_epoch, e.stream_seq) > (p.closed_epoch, p.closed_seq)`

// comparePeriods compares the events of the groups that hold one outside of its
// period.
func (a *auditor) comparePeriods(ctx context.Context, tx pgx.Tx, groups []counterKey) error {
	const atOnce = 500
	for some := range slices.Chunk(groups, atOnce) {
		if err := a.comparePeriodsOf(ctx, tx, some); err != nil {
			return fmt.Errorf("compare events with their periods: %w", err)
		}
	}
	return nil
}

func (a *auditor) comparePeriodsOf(ctx context.Context, tx pgx.Tx, groups []counterKey) error {
	var tenants []uuid.UUID
	var agents []string
	var starts []time.Time
	for _, g := range groups {
		tenants, agents, starts = append(tenants, g.Tenant), append(agents, g.Agent), append(starts, g.Period)
	}
	known, err := billing.LoadTenants(ctx, tx, tenants, time.Time{})
	if err != nil {
		return err
	}
	rows, _ := tx.Query(ctx, suspectsSQL, tenants, agents, starts)
	var s suspect
	_, err = pgx.ForEachRow(rows, []any{
		&s.Tenant, &s.Agent, &s.Period, &s.id, &s.key, &s.occurred, &s.at.Epoch, &s.at.Seq, &s.retried, &s.closed,
	}, func() error {
		var periods []odometer.Period
		if tenant := known[s.Tenant]; tenant != nil {
			periods = tenant.Periods
		}
		a.comparePeriod(&s, periods)
		return nil
	})
	return err
}

// comparePeriod compares the period that an event is in with the one that
// today's periods of its tenant give it. Where they give it none, the
// subscription has changed since it was counted: that is unknown and no
// difference, as long as the period it is in exists.
func (a *auditor) comparePeriod(s *suspect, periods []odometer.Period) {
	right := odometer.PeriodFor(periods, s.occurred, s.at)
	if s.retried {
		right = apply.PeriodForRetried(periods, s.occurred, s.closed)
	}
	exists := slices.ContainsFunc(periods, func(p odometer.Period) bool { return p.Start.Equal(s.Period) })
	expected := "a period that exists"
	switch {
	case right == nil && exists:
		a.report.addUnknown(eventsCounters, 1, "events whose period does not follow from today's subscription")
		return
	case right != nil && right.Start.Equal(s.Period):
		return
	case right != nil:
		expected = "the period from " + right.Start.UTC().Format(time.RFC3339)
	}
	d := s.difference(EventMoved)
	d.Where = fmt.Sprintf("%d-%d, key %q, occurred %s", s.at.Epoch, s.at.Seq, s.key, s.occurred.UTC().Format(time.RFC3339Nano))
	d.Expected, d.Found = expected, "the period from "+s.Period.UTC().Format(time.RFC3339)
	d.Cause = "the row was moved by hand"
	d.Repair = byHand("no repair is defined: delete the row with event_id %s, then: odometer replay --from-seq %d --tenant %s", s.id, s.at.Seq, s.Tenant)
	a.report.addDifference(eventsCounters, d)
}
