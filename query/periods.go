package query

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/shopspring/decimal"

	"odometer"
	"odometer/api"
)

// Bounds of a list of periods.
const (
	DefaultPeriods = 12
	MaxPeriods     = 100
)

// PeriodsRequest asks for billing periods.
type PeriodsRequest struct {
	Reader
	Limit  int    // 0: DefaultPeriods
	Cursor string // an earlier answer's, to go on
}

// Periods are the billing periods that have begun, newest first. It encodes to
// the JSON of GET /api/v1/periods.
type Periods struct {
	TenantID   uuid.UUID `json:"tenant_id"`
	AsOf       Instant   `json:"as_of"`
	Currency   string    `json:"currency" doc:"ISO 4217, lower case."`
	Periods    []Period  `json:"periods"`
	NextCursor *string   `json:"next_cursor" doc:"Give it as cursor to go on. null: that was all."`
}

// Period is one billing period with its totals.
type Period struct {
	PeriodStart           time.Time            `json:"period_start"`
	PeriodEnd             time.Time            `json:"period_end" doc:"Exclusive."`
	Status                string               `json:"status" enum:"open,closed" doc:"What is closed never changes. A period that has ended stays open for a while, for events under way; its limits and prices stand."`
	Current               bool                 `json:"current" doc:"It is the one that GET /api/v1/usage answers with."`
	Trial                 bool                 `json:"trial" doc:"Its usage is free."`
	Plan                  *PeriodPlan          `json:"plan" doc:"null: without one."`
	ClosedAt              *time.Time           `json:"closed_at"`
	SettledAt             *time.Time           `json:"settled_at" doc:"When its overage was reported in full to Stripe."`
	Usage                 Ordered[PeriodUsage] `json:"usage"`
	TotalOverageCostCents int64                `json:"total_overage_cost_cents" doc:"The sum of what is shown."`
}

// PeriodPlan is what was subscribed to in a period.
type PeriodPlan struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// PeriodUsage is one agent's count in a period, and what it cost.
type PeriodUsage struct {
	Count            int64  `json:"count"`
	Limit            *int64 `json:"limit" doc:"0: not included. null: nothing limits it."`
	Percentage       int64  `json:"percentage" doc:"Rounded down."`
	Overage          int64  `json:"overage" doc:"Units."`
	UnitPrice        string `json:"unit_price" doc:"Of a unit of overage, in the currency." example:"0.02"`
	OverageCostCents int64  `json:"overage_cost_cents"`
}

// ReadPeriods reads a page of periods. The error is a *Refusal where there is
// no answer, anything else is the database's.
func ReadPeriods(ctx context.Context, pool *pgxpool.Pool, r PeriodsRequest) (*Periods, error) {
	if r.Limit == 0 {
		r.Limit = DefaultPeriods
	}
	if r.Limit < 1 || r.Limit > MaxPeriods {
		return nil, refuse(ErrInvalid, "limit is %d: it must be from 1 to %d.", r.Limit, MaxPeriods)
	}
	before, err := r.before()
	if err != nil {
		return nil, err
	}
	var page *Periods
	err = inSnapshot(ctx, pool, func(ctx context.Context, tx pgx.Tx) error {
		rows, err := load(ctx, tx, r.Reader)
		if err != nil {
			return err
		}
		head := &rows[0]
		page = &Periods{TenantID: r.Tenant, AsOf: Instant{*head.CompleteUntil}, Currency: head.Currency}
		page.Periods, err = periods(ctx, tx, head, r.Tenant, before, r.Limit+1)
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(page.Periods) > r.Limit {
		page.Periods = page.Periods[:r.Limit]
		page.NextCursor = api.WriteCursor(page.Periods[r.Limit-1].PeriodStart, "periods", r.Tenant.String())
	}
	return page, nil
}

// before is the start of the last period of the page before, nil for none.
func (r *PeriodsRequest) before() (*time.Time, error) {
	if r.Cursor == "" {
		return nil, nil
	}
	at, ok := api.ReadCursor[time.Time](r.Cursor, "periods", r.Tenant.String())
	if !ok || !plausible(at) {
		return nil, invalidCursor(r.Cursor)
	}
	return &at, nil
}

// One row per period and agent: those of the catalogue, and after them those
// that were closed in the period and have left the catalogue since. A closed
// period has its own figures, an ended one its own limits and prices; an agent
// that neither names was not included. A trial and a period without a plan have no
// limit.
const periodsSQL = `
select
    p.period_start,
    p.period_end,
    p.status,
    p.trial,
    p.plan_id,
    coalesce(plans.name, p.plan_id) as plan_name,
    p.closed_at,
    p.settled_at,
    a.agent,
    case when p.status = 'closed' then coalesce(t.count, 0) else coalesce(u.count, 0) end as count,
    case
        when t.agent is not null then t."limit"
        when p.trial or p.plan_id is null then null
        when p.frozen_at is not null then case when f.agent is null then 0 else f."limit" end
        else case when l.agent is null then 0 else l."limit" end
    end as "limit",
    t.overage,
    coalesce(t.unit_price, f.unit_price, a.unit_price, 0) as unit_price
from (
    select *
    from billing_periods
    where tenant_id = $1
      and period_start <= now()
      and ($2::timestamptz is null or period_start < $2)
    order by period_start desc
    limit $3
) as p
left join plans on plans.plan_id = p.plan_id
left join lateral (
    select agent, position, unit_price
    from agents
    union all
    select agent, null, null
    from period_totals
    where tenant_id = p.tenant_id
      and period_start = p.period_start
      and not exists (select from agents where agents.agent = period_totals.agent)
) as a on true
left join period_totals as t
    on t.tenant_id = p.tenant_id and t.period_start = p.period_start and t.agent = a.agent
left join period_allowances as f
    on f.tenant_id = p.tenant_id and f.period_start = p.period_start and f.agent = a.agent
left join allowances as l on l.plan_id = p.plan_id and l.agent = a.agent
left join usage_counters as u
    on u.tenant_id = p.tenant_id and u.period_start = p.period_start and u.agent = a.agent
order by p.period_start desc, a.position nulls last, a.agent`

// periodRow is an agent's line of a period.
type periodRow struct {
	PeriodStart time.Time
	PeriodEnd   time.Time
	Status      string
	Trial       bool
	PlanID      *string
	PlanName    *string
	ClosedAt    *time.Time
	SettledAt   *time.Time

	Agent     *string
	Count     int64
	Limit     *int64
	Overage   *int64 // of a closed period
	UnitPrice decimal.Decimal
}

// periods are the tenant's newest periods that began before now and before a time.
func periods(ctx context.Context, tx pgx.Tx, head *row, tenant uuid.UUID, before *time.Time, limit int) ([]Period, error) {
	found, _ := tx.Query(ctx, periodsSQL, tenant, before, limit)
	rows, err := pgx.CollectRows(found, pgx.RowToStructByName[periodRow])
	if err != nil {
		return nil, wrap(err, "periods of tenant %s", tenant)
	}
	list := []Period{}
	for i := range rows {
		r := &rows[i]
		if n := len(list); n == 0 || !list[n-1].PeriodStart.Equal(r.PeriodStart) {
			list = append(list, r.period(head))
		}
		p := &list[len(list)-1]
		if p.Current && p.Status == "open" && head.free() {
			r.Limit = nil
		}
		p.add(r)
	}
	return list, nil
}

// period is the row's period, without usage.
func (r *periodRow) period(head *row) Period {
	p := Period{
		PeriodStart: r.PeriodStart.UTC(), PeriodEnd: r.PeriodEnd.UTC(),
		Status: r.Status, Current: r.PeriodStart.Equal(*head.PeriodStart), Trial: r.Trial,
		ClosedAt: utc(r.ClosedAt), SettledAt: utc(r.SettledAt),
	}
	if r.PlanID != nil {
		p.Plan = &PeriodPlan{*r.PlanID, *r.PlanName}
	}
	return p
}

// add adds an agent.
func (p *Period) add(r *periodRow) {
	if r.Agent == nil {
		return
	}
	over := odometer.Overage(r.Count, r.Limit)
	if r.Overage != nil {
		over = *r.Overage
	}
	use := PeriodUsage{
		Count:            r.Count,
		Limit:            r.Limit,
		Percentage:       odometer.Percentage(r.Count, r.Limit),
		Overage:          over,
		UnitPrice:        odometer.PriceText(r.UnitPrice),
		OverageCostCents: odometer.CostCents(over, r.UnitPrice),
	}
	p.Usage = append(p.Usage, Member[PeriodUsage]{*r.Agent, use})
	p.TotalOverageCostCents = odometer.Sum(p.TotalOverageCostCents, use.OverageCostCents)
}

func utc(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	u := t.UTC()
	return &u
}
