package query

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
)

// maxRaised is how many raised alerts an answer has.
const maxRaised = 100

// Alerts are the current alerts of a tenant and those that were raised. It
// encodes to the JSON of GET /api/v1/alerts.
type Alerts struct {
	TenantID    uuid.UUID     `json:"tenant_id"`
	PeriodStart time.Time     `json:"period_start"`
	PeriodEnd   time.Time     `json:"period_end" doc:"Exclusive."`
	AsOf        Instant       `json:"as_of"`
	Alerts      []AlertNow    `json:"alerts" doc:"What holds in the current period, as in GET /api/v1/usage; in the catalogue's order."`
	Raised      []AlertRaised `json:"raised" doc:"What was raised in any period, the newest first; at most 100."`
}

// AlertNow is an alert of the current period.
type AlertNow struct {
	Agent      string         `json:"agent"`
	Level      odometer.Level `json:"level" enum:"warning,error"`
	Message    string         `json:"message"`
	Percentage int64          `json:"percentage" doc:"Rounded down."`
	Count      int64          `json:"count"`
	Limit      int64          `json:"limit"`
	RaisedAt   *time.Time     `json:"raised_at" doc:"null: the job that raises alerts has not run since."`
}

// AlertRaised is an alert as it was raised, once for each threshold, period and
// limit.
type AlertRaised struct {
	Agent       string         `json:"agent"`
	Level       odometer.Level `json:"level" enum:"warning,error"`
	Threshold   int            `json:"threshold" doc:"Percent of the limit." enum:"80,100"`
	Limit       int64          `json:"limit" doc:"As it was then."`
	Count       int64          `json:"count" doc:"As it was then."`
	PeriodStart time.Time      `json:"period_start"`
	RaisedAt    time.Time      `json:"raised_at"`
	DeliveredAt *time.Time     `json:"delivered_at" doc:"When it was delivered to people; null: not yet, or there is no delivery."`
}

// ReadAlerts reads the tenant's alerts. The error is a *Refusal where there is
// no answer, anything else is the database's.
func ReadAlerts(ctx context.Context, pool *pgxpool.Pool, who Reader) (*Alerts, error) {
	var a *Alerts
	err := inSnapshot(ctx, pool, func(ctx context.Context, tx pgx.Tx) error {
		rows, err := load(ctx, tx, who)
		if err != nil {
			return err
		}
		now := answer(who.Tenant, rows)
		a = &Alerts{TenantID: now.TenantID, PeriodStart: now.PeriodStart, PeriodEnd: now.PeriodEnd, AsOf: now.AsOf}
		since, err := raisedIn(ctx, tx, who.Tenant, now.PeriodStart)
		if err != nil {
			return err
		}
		a.Alerts = currentAlerts(now, since)
		a.Raised, err = raised(ctx, tx, who.Tenant)
		return err
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// currentAlerts are the alerts of a usage answer, with when they were raised.
func currentAlerts(now *Answer, since map[raisedAlert]time.Time) []AlertNow {
	list := []AlertNow{}
	for _, alert := range now.Alerts {
		for _, m := range now.Usage {
			if m.Name != alert.Agent {
				continue
			}
			a := AlertNow{
				Agent: alert.Agent, Level: alert.Level, Message: alert.Message,
				Percentage: m.Value.Percentage, Count: m.Value.Count, Limit: *m.Value.Limit,
			}
			if at, ok := since[raisedAlert{a.Agent, a.Level, a.Limit}]; ok {
				a.RaisedAt = &at
			}
			list = append(list, a)
		}
	}
	return list
}

// raisedAlert identifies an alert within a period.
type raisedAlert struct {
	agent string
	level odometer.Level
	limit int64
}

const raisedInSQL = `
select agent, level, "limit", raised_at
from usage_alerts
where tenant_id = $1
  and period_start = $2`

// raisedIn is when each alert of a period was raised.
func raisedIn(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, start time.Time) (map[raisedAlert]time.Time, error) {
	found := map[raisedAlert]time.Time{}
	var a raisedAlert
	var at time.Time
	rows, _ := tx.Query(ctx, raisedInSQL, tenant, start)
	_, err := pgx.ForEachRow(rows, []any{&a.agent, &a.level, &a.limit, &at}, func() error {
		found[a] = at.UTC()
		return nil
	})
	return found, wrap(err, "alerts of tenant %s in the period from %s", tenant, start)
}

const raisedSQL = `
select agent, level, threshold, "limit", count, period_start, raised_at, delivered_at
from usage_alerts
where tenant_id = $1
order by raised_at desc, period_start desc, agent, threshold desc, "limit"
limit $2`

// raised are the newest alerts of any period.
func raised(ctx context.Context, tx pgx.Tx, tenant uuid.UUID) ([]AlertRaised, error) {
	rows, _ := tx.Query(ctx, raisedSQL, tenant, maxRaised)
	list, err := pgx.CollectRows(rows, pgx.RowToStructByName[AlertRaised])
	for i := range list {
		a := &list[i]
		a.PeriodStart, a.RaisedAt, a.DeliveredAt = a.PeriodStart.UTC(), a.RaisedAt.UTC(), utc(a.DeliveredAt)
	}
	return list, wrap(err, "raised alerts of tenant %s", tenant)
}
