package billing

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"odometer"
)

// InUseError says that a new catalogue lacks what is still needed. It is an
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
	agents, err := agentsInUse(ctx, tx, c.Agents)
	if err != nil {
		return err
	}
	plans, err := plansInUse(ctx, tx, c.Plans)
	if err != nil {
		return err
	}
	if len(agents)+len(plans) > 0 {
		return &InUseError{Agents: agents, Plans: plans}
	}
	return nil
}

const agentsInUseSQL = `
select
    u.agent as id,
    count(distinct u.tenant_id) as tenants
from agents a
join usage_counters u using (agent)
join billing_periods p using (tenant_id, period_start)
where u.agent <> all($1)
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

// agentsInUse are those that none of the kept ones is, and that still count or
// have overage that Stripe was not told in full.
func agentsInUse(ctx context.Context, tx pgx.Tx, kept []odometer.Agent) ([]InUse, error) {
	ids := make([]string, len(kept))
	for i, a := range kept {
		ids[i] = a.ID
	}
	rows, _ := tx.Query(ctx, agentsInUseSQL, ids)
	inUse, err := pgx.CollectRows(rows, pgx.RowToStructByName[InUse])
	if err != nil {
		return nil, fmt.Errorf("look up agents in use: %w", err)
	}
	return inUse, nil
}

// Subscriptions that were canceled count too: they go on naming the plan.
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
where u.plan_id <> all($1)
group by u.plan_id
order by u.plan_id`

// plansInUse are those that none of the kept ones is, and that tenants are on.
func plansInUse(ctx context.Context, tx pgx.Tx, kept []odometer.Plan) ([]InUse, error) {
	rows, _ := tx.Query(ctx, plansInUseSQL, planIDs(kept))
	inUse, err := pgx.CollectRows(rows, pgx.RowToStructByName[InUse])
	if err != nil {
		return nil, fmt.Errorf("look up plans in use: %w", err)
	}
	return inUse, nil
}

// planIDs is never nil: that would be null to Postgres, and nothing differs
// from all of null.
func planIDs(plans []odometer.Plan) []string {
	ids := make([]string, len(plans))
	for i, p := range plans {
		ids[i] = p.ID
	}
	return ids
}
