// Package query answers customers: how much of what they pay for is used, as
// of when, and what the overage costs.
//
// An answer is one statement, or several in one snapshot of the database, so
// that the counts, the plan they are measured against and the time up to which
// they are complete (as_of) belong together. A number that is not known is
// never a zero: a tenant whose partition was never read to its end gets no
// answer ([ErrNotRead]) instead of an empty one, and what retention has removed
// is left out of a history and named by complete_from.
//
// Events have no index by time, which would cost a quarter of the rate at which
// they are counted. Lists and histories of a tenant are found by its part of
// the primary key and by when events were stored (a BRIN index): see lookbacks
// in events.go for measurements.
//
//	usage.go    the current period: the statement that every read begins with
//	answer.go   its shape in JSON, its ETag, and the choice of a media type
//	snapshot.go what the reads of several statements have in common
//	history.go  usage by time, and where hours, days and months begin
//	events.go   the events themselves, by page; events_csv.go as a file
//	forecast.go what the current period is projected to
//	periods.go  the billing periods with their totals
//	alerts.go   current and raised alerts
//	routes.go   all of it over HTTP; routes_events.go the events
//	examples.go the examples of the documentation
//
// Package api has authenticated, authorized and rate-limited each request before.
package query

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/shopspring/decimal"

	"odometer"
)

// Why there is no answer although nothing failed. Usage returns them inside a
// *Refusal; they are checked in this order.
var (
	ErrNoSubscription = errors.New("no subscription")
	ErrInactive       = errors.New("subscription neither active nor on trial")
	ErrNotBegun       = errors.New("no billing period has begun")
	ErrNoPlan         = errors.New("active subscription without a plan")
	ErrNotRead        = errors.New("the tenant's events were never read to their end")
)

// Refusal is why a tenant has no answer. Its text is for the caller; its cause
// is one of this package's errors.
type Refusal struct {
	cause  error
	detail string
}

func (r *Refusal) Error() string { return r.detail }

// Unwrap is the cause.
func (r *Refusal) Unwrap() error { return r.cause }

func refuse(cause error, format string, args ...any) *Refusal {
	return &Refusal{cause, fmt.Sprintf(format, args...)}
}

// One row per agent of the catalogue. Everything is left-joined to a row that is
// always there: no subscription, no period and no catalogue are answers too. A partition that is not there has no complete_until. Limits and
// prices are the current ones, or those that the period was frozen with; a
// trial is frozen without limits, its plan is shown with the current ones.
//
// The catalogue's tables are too small ever to be analyzed, so the planner
// takes them for large. Joining catalogue instead of selecting one value
// makes it expect 400,000 rows and compile the statement (JIT): 15 ms each time.
const usageSQL = `
select
    now() as now,
    s.status,
    s.plan_id as subscribed_plan,
    s.trial_ends_at,
    p.period_start,
    p.period_end,
    coalesce(p.trial, false) as trial,
    case when p.tenant_id is null then (
        select min(period_start) from billing_periods where tenant_id = t.tenant_id
    ) end as first_period,
    p.plan_id,
    coalesce(plans.name, p.plan_id) as plan_name,
    read.complete_until,
    coalesce((select currency from catalogue), 'usd') as currency,
    a.agent,
    coalesce(a.noun, '') as noun,
    coalesce(a.limit_key, '') as limit_key,
    coalesce(frozen.unit_price, a.unit_price, 0) as unit_price,
    coalesce(frozen.agent, current.agent) is not null as included,
    coalesce(frozen."limit", current."limit") as "limit",
    coalesce(u.count, 0) as count
from (select $1::uuid as tenant_id, $2::bigint as hash) as t
left join subscriptions as s on s.tenant_id = t.tenant_id
left join lateral (
    select *
    from billing_periods
    where tenant_id = t.tenant_id and period_start <= now()
    order by period_start desc
    limit 1
) as p on true
left join plans on plans.plan_id = p.plan_id
left join stream_positions as read
    on read.partition = t.hash % (select nullif(count(*), 0) from stream_positions)
left join agents as a on true
left join allowances as current
    on current.plan_id = p.plan_id and current.agent = a.agent
    and (p.frozen_at is null or p.trial)
left join period_allowances as frozen
    on frozen.tenant_id = t.tenant_id and frozen.period_start = p.period_start and frozen.agent = a.agent
    and p.frozen_at is not null and not p.trial
left join usage_counters as u
    on u.tenant_id = t.tenant_id and u.agent = a.agent and u.period_start = p.period_start
order by a.position, a.agent`

// Usage is the tenant's usage in its newest period that has begun. It takes
// one round trip. The error is a *Refusal where the tenant cannot have an
// answer, anything else is the database's.
func Usage(ctx context.Context, pool *pgxpool.Pool, tenant uuid.UUID) (*Answer, error) {
	return usage(ctx, pool, Reader{Tenant: tenant})
}

// UsageOfAnyStatus is Usage for operators.
func UsageOfAnyStatus(ctx context.Context, pool *pgxpool.Pool, tenant uuid.UUID) (*Answer, error) {
	return usage(ctx, pool, Reader{Tenant: tenant, Operator: true})
}

func usage(ctx context.Context, pool *pgxpool.Pool, who Reader) (*Answer, error) {
	rows, err := load(ctx, pool, who)
	if err != nil {
		return nil, err
	}
	return answer(who.Tenant, rows), nil
}

// Reader is the tenant whose usage is read, and for whom.
type Reader struct {
	Tenant uuid.UUID

	// Operator reads also what belongs to a subscription that is past due,
	// canceled or expired, or has no plan. Usage is counted all the same.
	Operator bool
}

// querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// load is the first statement of every read of a tenant. It returns at least one
// row, or a *Refusal.
func load(ctx context.Context, q querier, who Reader) ([]row, error) {
	rows, err := q.Query(ctx, usageSQL, who.Tenant, int64(odometer.PartitionHash(who.Tenant)))
	if err != nil {
		return nil, fmt.Errorf("usage of tenant %s: %w", who.Tenant, err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[row])
	if err != nil {
		return nil, fmt.Errorf("usage of tenant %s: %w", who.Tenant, err)
	}
	refuse := (*row).refuseCustomer
	if who.Operator {
		refuse = (*row).refuse
	}
	if refusal := refuse(&found[0], who.Tenant); refusal != nil {
		return nil, refusal
	}
	return found, nil
}

// row is one agent's row (nil Agent when the catalogue has none), with what all
// rows of a tenant share.
type row struct {
	Now            time.Time
	Status         *odometer.Status
	SubscribedPlan *string
	TrialEndsAt    *time.Time
	PeriodStart    *time.Time
	PeriodEnd      *time.Time
	Trial          bool
	FirstPeriod    *time.Time
	PlanID         *string
	PlanName       *string
	CompleteUntil  *time.Time
	Currency       string

	Agent     *string
	Noun      string
	LimitKey  string
	UnitPrice decimal.Decimal
	Included  bool
	Limit     *int64
	Count     int64
}

// status is the subscription's status now: a trial is over at its end, even
// before the row says so.
func (r *row) status() odometer.Status {
	s := odometer.Subscription{Status: *r.Status, TrialEndsAt: r.TrialEndsAt}
	if r.SubscribedPlan != nil {
		s.PlanID = *r.SubscribedPlan
	}
	return s.StatusAt(r.Now)
}

// refuseCustomer is the reason, if any, for which a customer has no answer, in
// the contract's order.
func (r *row) refuseCustomer(tenant uuid.UUID) *Refusal {
	if r.Status == nil {
		return r.refuse(tenant)
	}
	status := r.status()
	switch {
	case status != odometer.Active && status != odometer.Trial:
		return refuse(ErrInactive, "The subscription's status is %s. Usage can be read while it is active or trial; renew it to see usage again.", status)
	case r.PeriodStart != nil && status == odometer.Active && r.PlanID == nil:
		return refuse(ErrNoPlan, "The subscription is active but has no plan. Ask the operator to assign one.")
	}
	return r.refuse(tenant)
}

// refuse is the reason, if any, for which there is nothing to answer with.
func (r *row) refuse(tenant uuid.UUID) *Refusal {
	switch {
	case r.Status == nil:
		return refuse(ErrNoSubscription, "Tenant %s has no subscription. Subscribe to a plan, or ask the operator to set a subscription up.", tenant)
	case r.PeriodStart == nil && r.FirstPeriod != nil:
		return refuse(ErrNotBegun, "The first billing period begins at %s. Ask again then.", r.FirstPeriod.UTC().Format(time.RFC3339))
	case r.PeriodStart == nil:
		return refuse(ErrNotBegun, "The subscription has no billing period. Ask the operator to set one up.")
	case r.CompleteUntil == nil:
		return refuse(ErrNotRead, "Usage is not known yet: the events recorded so far have not all been read. Ask again in a few seconds.")
	}
	return nil
}

// answer makes the answer of rows that load returned.
func answer(tenant uuid.UUID, rows []row) *Answer {
	head := &rows[0]
	a := &Answer{
		TenantID:    tenant,
		PeriodStart: head.PeriodStart.UTC(),
		PeriodEnd:   head.PeriodEnd.UTC(),
		AsOf:        Instant{*head.CompleteUntil},
		Currency:    head.Currency,
		Alerts:      []odometer.Alert{},
	}
	if head.PlanID != nil {
		a.Plan = &Plan{ID: *head.PlanID, Name: *head.PlanName}
	}
	free := head.free()
	for i := range rows {
		if rows[i].Agent != nil {
			a.add(&rows[i], free)
		}
	}
	return a
}

// free reports whether the period's usage has no limit: that of a trial,
// whatever its plan, and that without a plan.
func (r *row) free() bool {
	return r.Trial || r.PlanID == nil || r.status() == odometer.Trial
}

// add adds an agent.
func (a *Answer) add(r *row, free bool) {
	if a.Plan != nil {
		a.Plan.Limits = append(a.Plan.Limits, Member[*int64]{r.LimitKey, r.allowance()})
	}
	limit := r.limit(free)
	use := UsageOf(r.Count, limit, r.UnitPrice)
	a.Usage = append(a.Usage, Member[AgentUsage]{*r.Agent, use})
	a.TotalOverageCostCents = odometer.Sum(a.TotalOverageCostCents, use.OverageCostCents)
	if alert := odometer.AlertFor(*r.Agent, r.Noun, r.Count, limit, use.OverageCostCents, a.Currency); alert != nil {
		a.Alerts = append(a.Alerts, *alert)
	}
}

// limit is the limit of the agent's count.
func (r *row) limit(free bool) *int64 {
	if free {
		return nil
	}
	return r.allowance()
}

// allowance is the plan's limit: 0 for an agent that it does not name.
func (r *row) allowance() *int64 {
	if !r.Included {
		return new(int64)
	}
	return r.Limit
}
