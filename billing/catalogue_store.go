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
	"github.com/shopspring/decimal"

	"odometer"
)

// ErrNoCatalogue says that none was applied to this database yet.
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
	if err == nil && bytes.Equal(FormatCatalogue(present), FormatCatalogue(c)) {
		return nil
	}
	if err := rollOverAll(ctx, pool, time.Now()); err != nil {
		return fmt.Errorf("apply catalogue: %w", err)
	}
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if err := LockAll(ctx, tx); err != nil {
			return err
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

// rollOverAll freezes the terms of what has ended at now. A period that ends
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

func replaceCatalogue(ctx context.Context, tx pgx.Tx, c odometer.Catalogue) error {
	if err := writeCurrency(ctx, tx, c.Currency); err != nil {
		return err
	}
	if err := writeAgents(ctx, tx, c.Agents); err != nil {
		return err
	}
	if err := writeActions(ctx, tx, c.Agents); err != nil {
		return err
	}
	if err := writePlans(ctx, tx, c.Plans); err != nil {
		return err
	}
	return writeAllowances(ctx, tx, c.Plans)
}

const writeCurrencySQL = `
insert into catalogue (currency, applied_at)
values ($1, now())
on conflict (only_row) do update
set currency = excluded.currency,
    applied_at = excluded.applied_at`

func writeCurrency(ctx context.Context, tx pgx.Tx, currency string) error {
	if _, err := tx.Exec(ctx, writeCurrencySQL, currency); err != nil {
		return fmt.Errorf("write currency %q: %w", currency, err)
	}
	return nil
}

// Deleted and inserted, not updated: two agents may exchange their limit keys,
// which are unique at each moment. Nothing but actions and allowances refers to
// an agent's row, and they go with it.
const deleteAgentsSQL = `
delete from agents`

const insertAgentsSQL = `
insert into agents (agent, position, noun, limit_key, unit_price, meter, lookup_key)
select agent, position, noun, limit_key, unit_price, meter, lookup_key
from unnest($1::text[], $2::text[], $3::text[], $4::numeric[], $5::text[], $6::text[]) with ordinality
    as a (agent, noun, limit_key, unit_price, meter, lookup_key, position)`

func writeAgents(ctx context.Context, tx pgx.Tx, agents []odometer.Agent) error {
	var ids, nouns, limitKeys, meters, lookupKeys []string
	var prices []decimal.Decimal
	for _, a := range agents {
		ids = append(ids, a.ID)
		nouns = append(nouns, a.Noun)
		limitKeys = append(limitKeys, a.LimitKey)
		prices = append(prices, a.UnitPrice)
		meters = append(meters, a.Meter)
		lookupKeys = append(lookupKeys, a.LookupKey)
	}
	if _, err := tx.Exec(ctx, deleteAgentsSQL); err != nil {
		return fmt.Errorf("delete agents: %w", err)
	}
	if _, err := tx.Exec(ctx, insertAgentsSQL, ids, nouns, limitKeys, prices, meters, lookupKeys); err != nil {
		return fmt.Errorf("write agents %s: %w", strings.Join(ids, ", "), err)
	}
	return nil
}

const insertActionsSQL = `
insert into actions (agent, action_type, position)
select agent, action_type, position
from unnest($1::text[], $2::text[]) with ordinality
    as a (agent, action_type, position)`

func writeActions(ctx context.Context, tx pgx.Tx, agents []odometer.Agent) error {
	var ids, actions []string
	for _, a := range agents {
		for _, action := range a.Actions {
			ids = append(ids, a.ID)
			actions = append(actions, action)
		}
	}
	if _, err := tx.Exec(ctx, insertActionsSQL, ids, actions); err != nil {
		return fmt.Errorf("write %d actions: %w", len(actions), err)
	}
	return nil
}

const deletePlansSQL = `
delete from plans
where plan_id <> all($1)`

// Updated where they are: subscriptions refer to them.
const upsertPlansSQL = `
insert into plans (plan_id, position, name, price)
select plan_id, position, name, price
from unnest($1::text[], $2::text[], $3::numeric[]) with ordinality
    as p (plan_id, name, price, position)
on conflict (plan_id) do update
set position = excluded.position,
    name = excluded.name,
    price = excluded.price`

func writePlans(ctx context.Context, tx pgx.Tx, plans []odometer.Plan) error {
	ids := planIDs(plans)
	var names []string
	var prices []decimal.Decimal
	for _, p := range plans {
		names = append(names, p.Name)
		prices = append(prices, p.Price)
	}
	if _, err := tx.Exec(ctx, deletePlansSQL, ids); err != nil {
		return fmt.Errorf("delete plans other than %s: %w", strings.Join(ids, ", "), err)
	}
	if _, err := tx.Exec(ctx, upsertPlansSQL, ids, names, prices); err != nil {
		return fmt.Errorf("write plans %s: %w", strings.Join(ids, ", "), err)
	}
	return nil
}

// The rows before went with the agents they named.
const insertAllowancesSQL = `
insert into allowances (plan_id, agent, "limit")
select plan_id, agent, "limit"
from unnest($1::text[], $2::text[], $3::bigint[])
    as l (plan_id, agent, "limit")`

func writeAllowances(ctx context.Context, tx pgx.Tx, plans []odometer.Plan) error {
	var ids, agents []string
	var limits []*int64
	for _, p := range plans {
		for agent, allowance := range p.Allowances {
			ids = append(ids, p.ID)
			agents = append(agents, agent)
			limits = append(limits, nil)
			if !allowance.Unlimited {
				limits[len(limits)-1] = &allowance.Limit
			}
		}
	}
	if _, err := tx.Exec(ctx, insertAllowancesSQL, ids, agents, limits); err != nil {
		return fmt.Errorf("write %d allowances: %w", len(ids), err)
	}
	return nil
}
