package admin

import (
	"context"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer/api"
	"odometer/query"
)

// Orders of the tenants.
const (
	byOverage = "overage"
	byUsage   = "usage"
	byTenant  = "tenant"
)

// tenantFilter says which tenants, in which order.
type tenantFilter struct {
	TenantID string `query:"tenant_id" format:"uuid" doc:"Only this tenant; without search."`
	Search   string `query:"search" maxLength:"64" doc:"Only tenants whose id begins with this, or whose Stripe customer does." example:"a1b0c0de"`
	Status   string `query:"status" enum:"trial,active,past_due,canceled,expired" doc:"Only of this status, now: a trial that is over is active, or expired without a plan."`
	Sort     string `query:"sort" enum:"overage,usage,tenant" default:"overage" doc:"The order: what the overage costs, or all units used, the greatest first; or the tenant's id."`
	Limit    int    `query:"limit" minimum:"1" maximum:"200" default:"50" doc:"How many tenants a page has at most."`
	Cursor   string `query:"cursor" maxLength:"200" doc:"The next_cursor of the page before, with the same filter and order. Amounts move while events are counted: a tenant that overtakes the page is not seen on the way down."`
}

// TenantList is a page of tenants.
type TenantList struct {
	AsOf       *query.Instant `json:"as_of" doc:"Every valid event that the stream stored up to then is counted; null while a partition was never read to its end."`
	Tenants    []Tenant       `json:"tenants"`
	Total      int64          `json:"total" doc:"How many tenants the filter finds, on all pages."`
	NextCursor *string        `json:"next_cursor" doc:"Asks for the next page; null on the last."`
}

// tenantCursor is a tenant's position in an order.
type tenantCursor struct {
	Value  int64     `json:"v,omitempty"` // cents or units
	Tenant uuid.UUID `json:"t"`
}

// name identifies the list.
func (f *tenantFilter) name() []string {
	return []string{"tenants", f.Sort, f.Status, f.Search, strings.ToLower(f.TenantID)}
}

// listTenants is a page of the tenants that the filter finds.
func listTenants(ctx context.Context, pool *pgxpool.Pool, f tenantFilter) (*TenantList, error) {
	after, err := readCursor[tenantCursor](f.Cursor, f.name()...)
	if err != nil {
		return nil, err
	}
	if err := f.searchTenant(); err != nil {
		return nil, err
	}
	list := &TenantList{}
	if list.AsOf, err = loadAsOf(ctx, pool); err != nil {
		return nil, err
	}
	page, err := f.rank(ctx, pool, after, &list.Total)
	if err != nil {
		return nil, err
	}
	if len(page) > f.Limit {
		page = page[:f.Limit]
		list.NextCursor = api.WriteCursor(page[f.Limit-1], f.name()...)
	}
	ids := make([]uuid.UUID, len(page))
	for i, p := range page {
		ids[i] = p.Tenant
	}
	list.Tenants, err = loadTenants(ctx, pool, ids)
	return list, err
}

const asOfSQL = `
select case when bool_and(complete_until is not null) then min(complete_until) end
from stream_positions`

// loadAsOf is up to when everything is counted. It is read before the counts.
func loadAsOf(ctx context.Context, pool *pgxpool.Pool) (*query.Instant, error) {
	rows, _ := pool.Query(ctx, asOfSQL)
	return instant(pgx.CollectExactlyOneRow(rows, scanTime))
}

// periodSQL is the newest period of subscription `s` that has begun.
const periodSQL = `lateral (
    select *
    from billing_periods
    where tenant_id = s.tenant_id
      and period_start <= now()
    order by period_start desc
    limit 1
)`

// trialSQL is true for a period `p` of subscription `s` that is a trial's.
const trialSQL = `(p.trial or s.status = 'trial' and (s.trial_ends_at is null or s.trial_ends_at > now()))`

// freeSQL is true for a period without limits: that of a trial, and without a
// plan.
const freeSQL = `(p.plan_id is null or ` + trialSQL + `)`

// The small tables are never analyzed, so the planner takes them for large and
// would read all of the large ones with the periods of many years. `limit 1`
// prevents that.

// counterSQL is agent `a`'s counter in period `p`.
const counterSQL = `lateral (
    select c.count
    from usage_counters c
    where c.tenant_id = p.tenant_id
      and c.agent = a.agent
      and c.period_start = p.period_start
    limit 1
)`

// frozenSQL is the frozen limit and price of agent `a` in period `p`, no row when
// it was not frozen.
const frozenSQL = `lateral (
    select f.agent, f."limit", f.unit_price
    from period_allowances f
    where f.tenant_id = p.tenant_id
      and f.period_start = p.period_start
      and f.agent = a.agent
      and p.frozen_at is not null
      and not p.trial
    limit 1
)`

// foundSQL are the tenants that a filter finds.
const foundSQL = `
    select *
    from subscriptions s
    where ($1 = '' or ` + statusSQL + ` = $1)
      and (
          $2 = ''
          or s.tenant_id between $3 and $4
          or starts_with(s.stripe_customer, $2)
      )`

// Limits and prices are the current ones, or those that a period was frozen
// with; a trial is frozen without limits. A sum beyond bigint is cut: a price
// that is far too high must not break the list.
const rankSQL = `
with found as materialized (` + foundSQL + `
),
ranked as (
    select
        s.tenant_id,
        least(case
            when $5 = 'usage' then coalesce(sum(u.count), 0)
            else coalesce(sum(floor(
                greatest(0, u.count - coalesce(frozen."limit", l."limit", 0)) * coalesce(frozen.unit_price, a.unit_price) * 100 + 0.5
            )) filter (where not ` + freeSQL + ` and (coalesce(frozen.agent, l.agent) is null or coalesce(frozen."limit", l."limit") is not null)), 0)
        end, 9223372036854775807)::bigint as value
    from found s
    left join ` + periodSQL + ` p on true
    left join agents a on true
    left join ` + counterSQL + ` u on true
    left join allowances l on l.plan_id = p.plan_id and l.agent = a.agent and (p.frozen_at is null or p.trial)
    left join ` + frozenSQL + ` frozen on true
    group by s.tenant_id
)
select found.count, r.value, r.tenant_id
from (select count(*) from found) as found
left join (
    select *
    from ranked
    where $6::bigint is null
       or value < $6
       or value = $6 and tenant_id > $7
    order by value desc, tenant_id
    limit $8
) r on true
order by r.value desc, r.tenant_id`

const byTenantSQL = `
with found as materialized (` + foundSQL + `
)
select found.count, 0::bigint, r.tenant_id
from (select count(*) from found) as found
left join (
    select *
    from found
    where $5::uuid is null
       or tenant_id > $5
    order by tenant_id
    limit $6
) r on true
order by r.tenant_id`

// searchTenant turns tenant_id into a search for exactly that id.
func (f *tenantFilter) searchTenant() error {
	tenant, err := onlyTenant(f.TenantID)
	switch {
	case err != nil || tenant == nil:
		return err
	case f.Search != "":
		return api.NewProblem(api.InvalidRequest, "search and tenant_id are both given: give one of them.")
	}
	f.Search = tenant.String()
	return nil
}

// rank finds the tenants of a page and one more, and the number of all.
func (f *tenantFilter) rank(ctx context.Context, pool *pgxpool.Pool, after *tenantCursor, total *int64) ([]tenantCursor, error) {
	if err := checkText("search", f.Search); err != nil {
		return nil, err
	}
	low, high := idRange(f.Search)
	sql, args := byTenantSQL, []any{f.Status, f.Search, low, high}
	var value *int64
	var tenant *uuid.UUID
	if after != nil {
		value, tenant = &after.Value, &after.Tenant
	}
	if f.Sort == byTenant {
		args = append(args, tenant, f.Limit+1)
	} else {
		sql, args = rankSQL, append(args, f.Sort, value, tenant, f.Limit+1)
	}
	var page []tenantCursor
	err := withoutJIT(ctx, pool, func(tx pgx.Tx) error {
		rows, _ := tx.Query(ctx, sql, args...)
		_, err := pgx.ForEachRow(rows, []any{total, &value, &tenant}, func() error {
			if tenant != nil { // null where there is only the total
				page = append(page, tenantCursor{*value, *tenant})
			}
			return nil
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list tenants by %s: %w", f.Sort, err)
	}
	return page, nil
}

const withoutJITSQL = `
set local jit = off`

// withoutJIT runs a statement over all tenants. The planner takes the small
// tables for large and would compile it each time, which takes longer than it.
func withoutJIT(ctx context.Context, pool *pgxpool.Pool, do func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, withoutJITSQL); err != nil {
			return err
		}
		return do(tx)
	})
}

// idRange are the lowest and the highest id that begin with text; nil when none
// can.
func idRange(text string) (low, high *uuid.UUID) {
	const dashes = "00000000-0000-0000-0000-000000000000"
	text = strings.ToLower(text)
	if len(text) > len(dashes) {
		return nil, nil
	}
	first, errLow := uuid.Parse(text + dashes[len(text):])
	last, errHigh := uuid.Parse(text + strings.ReplaceAll(dashes, "0", "f")[len(text):])
	if errLow != nil || errHigh != nil {
		return nil, nil
	}
	return &first, &last
}
