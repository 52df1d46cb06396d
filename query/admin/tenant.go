package admin

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/shopspring/decimal"

	"odometer"
	"odometer/api"
	"odometer/query"
)

// Tenant is a tenant's subscription with its usage in the newest period that
// has begun.
type Tenant struct {
	TenantID              uuid.UUID                       `json:"tenant_id"`
	Status                odometer.Status                 `json:"status" enum:"trial,active,past_due,canceled,expired" doc:"Now: a trial that is over is active, or expired without a plan."`
	Plan                  *PlanName                       `json:"plan" doc:"Of the period; null without one."`
	Trial                 bool                            `json:"trial" doc:"The period is a trial's, which has no limits. A period that is no trial and has no plan is counted without limits; its tenant's own requests for usage are refused until there is a plan."`
	PeriodStart           *time.Time                      `json:"period_start" doc:"Null while no billing period has begun."`
	PeriodEnd             *time.Time                      `json:"period_end" doc:"Exclusive."`
	Usage                 query.Ordered[query.AgentUsage] `json:"usage" doc:"By agent, in the catalogue's order; empty while no billing period has begun."`
	TotalCount            int64                           `json:"total_count" doc:"Units of all agents."`
	TotalOverageCostCents int64                           `json:"total_overage_cost_cents"`
	StripeCustomer        *string                         `json:"stripe_customer"`
	OpenDeadLetters       int64                           `json:"open_dead_letters"`
}

// PlanName is what a plan is called.
type PlanName struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// agentRow is one agent's row of a tenant (nil Agent when there is none), with
// what all rows of a tenant share.
type agentRow struct {
	TenantID       uuid.UUID
	Status         odometer.Status
	StripeCustomer *string
	DeadLetters    int64
	PeriodStart    *time.Time
	PeriodEnd      *time.Time
	PlanID         *string
	PlanName       *string
	Trial          bool
	Free           bool

	Agent     *string
	UnitPrice decimal.Decimal
	Included  bool
	Limit     *int64
	Count     int64
}

const tenantsSQL = `
with open_letters as materialized (
    select tenant_id, count(*) as open
    from dead_letters
    where state = 'open'
      and tenant_id = any($1)
    group by tenant_id
)
select
    s.tenant_id,
    ` + statusSQL + ` as status,
    s.stripe_customer,
    coalesce(d.open, 0) as dead_letters,
    p.period_start,
    p.period_end,
    p.plan_id,
    coalesce(plans.name, p.plan_id) as plan_name,
    coalesce(` + trialSQL + `, false) as trial,
    coalesce(` + freeSQL + `, false) as free,
    a.agent,
    coalesce(frozen.unit_price, a.unit_price, 0) as unit_price,
    coalesce(frozen.agent, l.agent) is not null as included,
    coalesce(frozen."limit", l."limit") as "limit",
    coalesce(u.count, 0) as count
from unnest($1::uuid[]) with ordinality as t (tenant_id, ordinal)
join subscriptions s using (tenant_id)
left join open_letters d using (tenant_id)
left join ` + periodSQL + ` p on true
left join plans on plans.plan_id = p.plan_id
left join agents a on p.tenant_id is not null
left join ` + counterSQL + ` u on true
left join allowances l on l.plan_id = p.plan_id and l.agent = a.agent and (p.frozen_at is null or p.trial)
left join ` + frozenSQL + ` frozen on true
order by t.ordinal, a.position, a.agent`

// loadTenants reads tenants, in the order of their ids. Tenants without a
// subscription are left out.
func loadTenants(ctx context.Context, pool *pgxpool.Pool, ids []uuid.UUID) ([]Tenant, error) {
	rows, _ := pool.Query(ctx, tenantsSQL, ids)
	lines, err := pgx.CollectRows(rows, pgx.RowToStructByName[agentRow])
	if err != nil {
		return nil, fmt.Errorf("read the usage of %d tenants: %w", len(ids), err)
	}
	tenants := []Tenant{}
	for i := range lines {
		r := &lines[i]
		if i == 0 || lines[i-1].TenantID != r.TenantID {
			tenants = append(tenants, r.tenant())
		}
		if r.Agent != nil {
			tenants[len(tenants)-1].add(r)
		}
	}
	return tenants, nil
}

func (r *agentRow) tenant() Tenant {
	inUTC(r.PeriodStart, r.PeriodEnd)
	t := Tenant{
		TenantID: r.TenantID, Status: r.Status, Trial: r.Trial, PeriodStart: r.PeriodStart, PeriodEnd: r.PeriodEnd,
		StripeCustomer: r.StripeCustomer, OpenDeadLetters: r.DeadLetters,
	}
	if r.PlanID != nil {
		t.Plan = &PlanName{*r.PlanID, *r.PlanName}
	}
	return t
}

// add adds an agent. An agent that the plan does not name has limit 0.
func (t *Tenant) add(r *agentRow) {
	limit := r.Limit
	switch {
	case r.Free:
		limit = nil
	case !r.Included:
		limit = new(int64)
	}
	use := query.UsageOf(r.Count, limit, r.UnitPrice)
	t.Usage = append(t.Usage, query.Member[query.AgentUsage]{Name: *r.Agent, Value: use})
	t.TotalCount = odometer.Sum(t.TotalCount, use.Count)
	t.TotalOverageCostCents = odometer.Sum(t.TotalOverageCostCents, use.OverageCostCents)
}

// TenantDetail is one tenant with its subscription.
type TenantDetail struct {
	AsOf         *query.Instant     `json:"as_of" doc:"Every valid event of this tenant that the stream stored up to then is counted; null while that is not known."`
	Tenant       Tenant             `json:"tenant"`
	Subscription TenantSubscription `json:"subscription"`
}

// TenantSubscription is a tenant's subscription as it is stored.
type TenantSubscription struct {
	Status             odometer.Status   `json:"status" enum:"trial,active,past_due,canceled,expired" doc:"As it is stored; tenant.status is the status now."`
	PlanID             *string           `json:"plan_id"`
	Interval           odometer.Interval `json:"interval" enum:"day,week,month,year,none" doc:"After which a period is followed by the next."`
	Anchor             time.Time         `json:"anchor" doc:"The time that periods are counted from."`
	TrialEndsAt        *time.Time        `json:"trial_ends_at"`
	StripeCustomer     *string           `json:"stripe_customer"`
	StripeSubscription *string           `json:"stripe_subscription"`
	CreatedAt          time.Time         `json:"created_at"`
	UpdatedAt          time.Time         `json:"updated_at"`
}

const subscriptionSQL = `
select status, plan_id, period_interval as interval, anchor, trial_ends_at, stripe_customer, stripe_subscription, created_at, updated_at
from subscriptions
where tenant_id = $1`

// tenantDetail reads one tenant; a Problem when it has no subscription.
func tenantDetail(ctx context.Context, pool *pgxpool.Pool, id uuid.UUID) (*TenantDetail, error) {
	asOf, err := loadTenantAsOf(ctx, pool, id)
	if err != nil {
		return nil, err
	}
	rows, _ := pool.Query(ctx, subscriptionSQL, id)
	subscriptions, err := pgx.CollectRows(rows, pgx.RowToStructByName[TenantSubscription])
	if err != nil {
		return nil, fmt.Errorf("read the subscription of tenant %s: %w", id, err)
	}
	tenants, err := loadTenants(ctx, pool, []uuid.UUID{id})
	if err != nil {
		return nil, err
	}
	if len(subscriptions) == 0 || len(tenants) == 0 {
		return nil, noSubscription(id)
	}
	s := &subscriptions[0]
	inUTC(&s.Anchor, s.TrialEndsAt, &s.CreatedAt, &s.UpdatedAt)
	return &TenantDetail{AsOf: asOf, Tenant: tenants[0], Subscription: *s}, nil
}

const tenantAsOfSQL = `
select (
    select complete_until
    from stream_positions
    where partition = $1::bigint % (select nullif(count(*), 0) from stream_positions)
)`

// loadTenantAsOf is up to when everything of a tenant is counted.
func loadTenantAsOf(ctx context.Context, pool *pgxpool.Pool, id uuid.UUID) (*query.Instant, error) {
	rows, _ := pool.Query(ctx, tenantAsOfSQL, int64(odometer.PartitionHash(id)))
	return instant(pgx.CollectExactlyOneRow(rows, scanTime))
}

func scanTime(row pgx.CollectableRow) (at *time.Time, err error) {
	err = row.Scan(&at)
	return at, err
}

// instant is a time up to which something is known.
func instant(at *time.Time, err error) (*query.Instant, error) {
	if err != nil {
		return nil, fmt.Errorf("read how far the stream is counted: %w", err)
	}
	if at == nil {
		return nil, nil
	}
	return &query.Instant{Time: *at}, nil
}

func noSubscription(tenant uuid.UUID) *api.Problem {
	return api.NewProblem(api.NoSubscription, "Tenant %s has no subscription. Set one up with: odometer subscription set --tenant %s", tenant, tenant)
}

// TenantAlert is that a tenant has reached a threshold of a limit.
type TenantAlert struct {
	TenantID    uuid.UUID      `json:"tenant_id"`
	Agent       string         `json:"agent"`
	PeriodStart time.Time      `json:"period_start"`
	Threshold   int            `json:"threshold" doc:"In percent of the limit: 80 or 100."`
	Limit       int64          `json:"limit" doc:"The limit of the threshold; a new limit has its own alerts."`
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
