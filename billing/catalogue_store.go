package billing

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
)

// ErrNoCatalogue means that none was applied to this database yet.
var ErrNoCatalogue = errors.New("no catalogue: apply one with: odometer catalogue apply")

// One statement, so that the catalogue is of one moment also outside of a
// transaction. The names in the JSON are those of the Go fields.
const loadCatalogueSQL = `
select
    c.currency,
    (
        select coalesce(json_agg(json_build_object(
            'ID', a.agent,
            'Noun', a.noun,
            'Actions', (select json_agg(action_type order by position) from actions where agent = a.agent),
            'LimitKey', a.limit_key,
            'UnitPrice', a.unit_price,
            'Meter', a.meter,
            'LookupKey', a.lookup_key
        ) order by a.position), '[]')
        from agents a
    ) as agents,
    (
        select coalesce(json_agg(json_build_object(
            'ID', p.plan_id,
            'Name', p.name,
            'Price', p.price,
            'Allowances', (
                select coalesce(json_object_agg(l.agent, json_build_object(
                    'Limit', coalesce(l."limit", 0),
                    'Unlimited', l."limit" is null
                )), '{}')
                from allowances l
                where l.plan_id = p.plan_id
            )
        ) order by p.position), '[]')
        from plans p
    ) as plans
from catalogue c`

// LoadCatalogue reads the catalogue in force, or ErrNoCatalogue.
func LoadCatalogue(ctx context.Context, q querier) (odometer.Catalogue, error) {
	rows, _ := q.Query(ctx, loadCatalogueSQL)
	c, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[odometer.Catalogue])
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return odometer.Catalogue{}, ErrNoCatalogue
	case err != nil:
		return odometer.Catalogue{}, fmt.Errorf("load catalogue: %w", err)
	}
	return c, nil
}

// ApplyCatalogue puts c in force in place of the whole present catalogue. New
// limits and prices act on running periods; those that have ended are frozen
// with the old ones first. It returns an *InUseError, and changes nothing, when
// c lacks an agent or plan that is still needed. A catalogue that is in force
// already is left as it is.
func ApplyCatalogue(ctx context.Context, pool *pgxpool.Pool, c odometer.Catalogue) error {
	present, err := LoadCatalogue(ctx, pool)
	if err != nil && !errors.Is(err, ErrNoCatalogue) {
		return err
	}
	if err == nil {
		if equal, err := equalCatalogues(present, c); err != nil || equal {
			return err
		}
	}
	if err := rollOverAll(ctx, pool, time.Now()); err != nil {
		return fmt.Errorf("apply catalogue: %w", err)
	}
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if err := LockAll(ctx, tx); err != nil {
			return err
		}
		if c.Plans == nil {
			c.Plans = []odometer.Plan{} // [] in JSON, not null
		}
		if err := checkUse(ctx, tx, c); err != nil {
			return err
		}
		return replaceCatalogue(ctx, tx, c)
	})
	if err != nil {
		return fmt.Errorf("apply catalogue: %w", err)
	}
	return nil
}

func equalCatalogues(a, b odometer.Catalogue) (bool, error) {
	textA, err := FormatCatalogue(a)
	if err != nil {
		return false, err
	}
	textB, err := FormatCatalogue(b)
	return bytes.Equal(textA, textB), err
}

// rollOverAll freezes limits and prices of what has ended at now. A period that ends
// after now sees the new catalogue while it runs, and is frozen with it.
func rollOverAll(ctx context.Context, pool *pgxpool.Pool, now time.Time) error {
	const perTransaction = 1000
	for {
		tenants, err := Due(ctx, pool, now, perTransaction)
		if err != nil || len(tenants) == 0 {
			return err
		}
		if err := RollOver(ctx, pool, tenants, now, now); err != nil {
			return fmt.Errorf("roll over %d tenants: %w", len(tenants), err)
		}
	}
}

// Each statement's argument is the whole catalogue as JSON, under the names of
// the Go fields.
var replaceCatalogueSQL = []string{
	`
insert into catalogue (currency, applied_at)
values ($1::jsonb ->> 'Currency', now())
on conflict (only_row) do update
set currency = excluded.currency,
    applied_at = excluded.applied_at`,

	// Deleted and inserted, not updated: two agents may exchange their limit keys,
	// which are unique at each moment. Only actions and allowances refer to an
	// agent's row, and they are deleted with it.
	`
delete from agents
where $1::jsonb is not null`,

	`
insert into agents (agent, position, noun, limit_key, unit_price, meter, lookup_key)
select
    a ->> 'ID', position, a ->> 'Noun', a ->> 'LimitKey', (a ->> 'UnitPrice')::numeric, a ->> 'Meter', a ->> 'LookupKey'
from jsonb_array_elements($1::jsonb -> 'Agents') with ordinality as agents (a, position)`,

	`
insert into actions (agent, action_type, position)
select a ->> 'ID', action_type, position
from
    jsonb_array_elements($1::jsonb -> 'Agents') as a,
    jsonb_array_elements_text(a -> 'Actions') with ordinality as actions (action_type, position)`,

	`
delete from plans
where plan_id not in (select p ->> 'ID' from jsonb_array_elements($1::jsonb -> 'Plans') as p)`,

	// Updated where they are: subscriptions refer to them.
	`
insert into plans (plan_id, position, name, price)
select p ->> 'ID', position, p ->> 'Name', (p ->> 'Price')::numeric
from jsonb_array_elements($1::jsonb -> 'Plans') with ordinality as plans (p, position)
on conflict (plan_id) do update
set position = excluded.position,
    name = excluded.name,
    price = excluded.price`,

	`
insert into allowances (plan_id, agent, "limit")
select p ->> 'ID', agent, case when not (allowance ->> 'Unlimited')::boolean then (allowance ->> 'Limit')::bigint end
from
    jsonb_array_elements($1::jsonb -> 'Plans') as p,
    jsonb_each(p -> 'Allowances') as allowances (agent, allowance)`,
}

func replaceCatalogue(ctx context.Context, tx pgx.Tx, c odometer.Catalogue) error {
	for _, sql := range replaceCatalogueSQL {
		if _, err := tx.Exec(ctx, sql, c); err != nil {
			return fmt.Errorf("replace catalogue: %w", err)
		}
	}
	return nil
}

// InUseError means that a new catalogue lacks what is still needed. It is an
// ErrRefused.
type InUseError struct {
	Agents []InUse // counted in periods that are still open
	Plans  []InUse // of a subscription of any status, or of an open period
}

// InUse is how many tenants still need an agent or a plan.
type InUse struct {
	ID      string
	Tenants int
}

func (e *InUseError) Error() string {
	var needs []string
	for _, a := range e.Agents {
		needs = append(needs, fmt.Sprintf("agent %q (counted for %s in open periods)", a.ID, tenants(a.Tenants)))
	}
	for _, p := range e.Plans {
		needs = append(needs, fmt.Sprintf("plan %q (of %s)", p.ID, tenants(p.Tenants)))
	}
	text := "the new catalogue lacks what is in use: " + strings.Join(needs, ", ") + ": keep it in the file"
	if len(e.Agents) > 0 {
		text += "; an agent can go when the periods that count it are closed"
	}
	if len(e.Plans) > 0 {
		text += "; a plan can go when its tenants were moved by: odometer subscription set, and its periods are closed"
	}
	return text
}

// Unwrap makes it an ErrRefused.
func (e *InUseError) Unwrap() error { return ErrRefused }

func tenants(n int) string {
	if n == 1 {
		return "1 tenant"
	}
	return fmt.Sprintf("%d tenants", n)
}

func checkUse(ctx context.Context, tx pgx.Tx, c odometer.Catalogue) error {
	agents, err := inUse(ctx, tx, agentsInUseSQL, c)
	if err != nil {
		return err
	}
	plans, err := inUse(ctx, tx, plansInUseSQL, c)
	if err != nil {
		return err
	}
	if len(agents)+len(plans) > 0 {
		return &InUseError{Agents: agents, Plans: plans}
	}
	return nil
}

// An agent is in use where it still counts, or has overage that was not
// reported to Stripe in full.
const agentsInUseSQL = `
select
    u.agent as id,
    count(distinct u.tenant_id) as tenants
from agents a
join usage_counters u using (agent)
join billing_periods p using (tenant_id, period_start)
where u.agent not in (select a ->> 'ID' from jsonb_array_elements($1::jsonb -> 'Agents') as a)
  and u.count > 0
  and (
      p.status = 'open'
      or p.settled_at is null and exists (
          select from period_totals t
          where t.tenant_id = p.tenant_id and t.period_start = p.period_start and t.agent = u.agent and t.overage > 0
      )
  )
group by u.agent
order by u.agent`

// Canceled subscriptions use their plan too: they still name it.
const plansInUseSQL = `
select
    u.plan_id as id,
    count(*) as tenants
from plans p
join (
    select plan_id, tenant_id from subscriptions
    union
    select plan_id, tenant_id from billing_periods where status = 'open'
) u using (plan_id)
where u.plan_id not in (select p ->> 'ID' from jsonb_array_elements($1::jsonb -> 'Plans') as p)
group by u.plan_id
order by u.plan_id`

// inUse lists what is used and not part of c.
func inUse(ctx context.Context, tx pgx.Tx, sql string, c odometer.Catalogue) ([]InUse, error) {
	rows, _ := tx.Query(ctx, sql, c)
	used, err := pgx.CollectRows(rows, pgx.RowToStructByName[InUse])
	if err != nil {
		return nil, fmt.Errorf("look up what of the catalogue is in use: %w", err)
	}
	return used, nil
}
