package audit

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"odometer"
	"odometer/aggregator/apply"
	"odometer/billing"
)

// doubtful is an event that occurred outside of the period it is in, or came
// after that was closed. Late events are like that, and rightly.
type doubtful struct {
	Tenant   uuid.UUID
	Agent    string
	Period   time.Time
	Event    uuid.UUID
	Key      string
	Quantity int64
	Occurred time.Time
	At       odometer.Position // of the message
	Retried  bool              // it comes from a dead letter
	Closed   *time.Time        // the end of the tenant's last closed period at the retry
}

// An event that comes from a retried dead letter keeps its own position; the
// dead letter tells what was closed at the retry, by which its period was found.
const doubtfulSQL = `
select
    e.tenant_id, e.agent, e.period_start, e.event_id, e.idempotency_key, e.quantity, e.occurred_at,
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

// comparePlaces looks into the groups that hold an event outside of its period.
func (a *auditor) comparePlaces(ctx context.Context, tx pgx.Tx, groups []drift) error {
	const atOnce = 500
	for len(groups) > 0 {
		n := min(atOnce, len(groups))
		if err := a.comparePlacesOf(ctx, tx, groups[:n]); err != nil {
			return fmt.Errorf("compare events with their periods: %w", err)
		}
		groups = groups[n:]
	}
	return nil
}

func (a *auditor) comparePlacesOf(ctx context.Context, tx pgx.Tx, groups []drift) error {
	var tenants []uuid.UUID
	var agents []string
	var starts []time.Time
	for _, g := range groups {
		tenants, agents, starts = append(tenants, g.Tenant), append(agents, g.Agent), append(starts, g.Period)
	}
	periods, err := billing.LoadTenants(ctx, tx, tenants, time.Time{})
	if err != nil {
		return err
	}
	rows, _ := tx.Query(ctx, doubtfulSQL, tenants, agents, starts)
	var d doubtful
	_, err = pgx.ForEachRow(rows, []any{
		&d.Tenant, &d.Agent, &d.Period, &d.Event, &d.Key, &d.Quantity, &d.Occurred,
		&d.At.Epoch, &d.At.Seq, &d.Retried, &d.Closed,
	}, func() error {
		a.comparePlace(&d, periods[d.Tenant])
		return nil
	})
	return err
}

// comparePlace compares where an event is with where today's periods put it.
// Where they put it nowhere, the subscription has changed since it was counted:
// nothing can be said then, as long as the period it is in exists.
func (a *auditor) comparePlace(d *doubtful, tenant *billing.Tenant) {
	var home *odometer.Period
	exists := false
	if tenant != nil {
		if home = odometer.PeriodFor(tenant.Periods, d.Occurred, d.At); d.Retried {
			home = apply.PeriodForRetried(tenant.Periods, d.Occurred, d.Closed)
		}
		for _, p := range tenant.Periods {
			exists = exists || p.Start.Equal(d.Period)
		}
	}
	expected := "a period that exists"
	switch {
	case home == nil && exists:
		a.report.unknown(eventsCounters, 1, "events whose period cannot be told from today's subscription")
		return
	case home != nil && home.Start.Equal(d.Period):
		return
	case home != nil:
		expected = "the period from " + home.Start.UTC().Format(time.RFC3339)
	}
	id, period := d.Tenant, d.Period.UTC()
	a.report.differs(eventsCounters, Difference{
		Kind: EventMoved, Tenant: &id, Agent: d.Agent, Period: &period,
		Where:    fmt.Sprintf("%d-%d, key %q, occurred %s", d.At.Epoch, d.At.Seq, d.Key, d.Occurred.UTC().Format(time.RFC3339Nano)),
		Expected: expected, Found: "the period from " + period.Format(time.RFC3339),
		Cause: "the row was moved by hand",
		Repair: byHand("no repair is defined: delete the row with event_id %s, then: odometer replay --from-seq %d --tenant %s",
			d.Event, d.At.Seq, d.Tenant),
	})
}
