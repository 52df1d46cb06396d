package admin

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
)

// TenantAlert is that a tenant has reached a threshold of a limit.
type TenantAlert struct {
	TenantID    uuid.UUID      `json:"tenant_id"`
	Agent       string         `json:"agent"`
	PeriodStart time.Time      `json:"period_start"`
	Threshold   int            `json:"threshold" doc:"In percent of the limit: 80 or 100."`
	Limit       int64          `json:"limit" doc:"The limit that it is of; a new limit has alerts of its own."`
	Level       odometer.Level `json:"level" enum:"warning,error"`
	Count       int64          `json:"count" doc:"When it was raised."`
	RaisedAt    time.Time      `json:"raised_at"`
	DeliveredAt *time.Time     `json:"delivered_at" doc:"When Slack took it; null while it has not, or where there is no Slack."`
	Attempts    int            `json:"attempts" doc:"Deliveries that failed."`
}

// TenantAlertList is the newest alerts.
type TenantAlertList struct {
	Alerts []TenantAlert `json:"alerts"`
}

const alertsSQL = `
select tenant_id, agent, period_start, threshold, "limit", level, count, raised_at, delivered_at, attempts
from usage_alerts
order by raised_at desc, tenant_id, agent, period_start, threshold, "limit"
limit $1`

// listAlerts is the newest alerts of all tenants.
func listAlerts(ctx context.Context, pool *pgxpool.Pool, limit int) (*TenantAlertList, error) {
	rows, _ := pool.Query(ctx, alertsSQL, limit)
	alerts, err := pgx.CollectRows(rows, pgx.RowToStructByName[TenantAlert])
	if err != nil {
		return nil, fmt.Errorf("list alerts: %w", err)
	}
	for i := range alerts {
		inUTC(&alerts[i].PeriodStart, &alerts[i].RaisedAt, alerts[i].DeliveredAt)
	}
	return &TenantAlertList{alerts}, nil
}
