package reporter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

const tenantsSQL = `
select distinct p.tenant_id
from billing_periods p
where p.settled_at is null
  and p.period_start <= $1
  and p.tenant_id > $2
  and ($3::uuid is null or p.tenant_id = $3)
order by p.tenant_id
limit $4`

// A tenant is due when a period has just ended, or when a period was closed
// since its invoice was last checked, or when the next check is due. Usage
// records do not reach a period that has ended, so they are due shortly before.
const dueTenantsSQL = `
select distinct p.tenant_id
from billing_periods p
join subscriptions s using (tenant_id)
left join period_invoices i on i.tenant_id = p.tenant_id and i.period_start = p.period_start
where p.settled_at is null
  and p.period_start <= $1
  and p.tenant_id > $2
  and ($3::uuid is null or p.tenant_id = $3)
  and (
      p.status = 'closed' and (coalesce(p.stripe_customer, s.stripe_customer) is not null or not exists (
          select from period_totals t
          where t.tenant_id = p.tenant_id and t.period_start = p.period_start and t.overage > 0
      )) and (i.tenant_id is null or p.closed_at > i.checked_at)
      or i.next_check_at <= $1 and i.concluded_at is null
      or p.status = 'open' and p.period_end > $1 - interval '2 minutes' and p.period_end <= $5
  )
order by p.tenant_id
limit $4`

// eachPage calls work with the tenants that a query lists, page by page. more are
// the arguments of the query beyond the four that both have.
func (r *Reporter) eachPage(ctx context.Context, query string, now time.Time, tenant *uuid.UUID, work func([]uuid.UUID) error, more ...any) error {
	args := append([]any{now, uuid.Nil, tenant, pageSize}, more...)
	for {
		rows, _ := r.Pool.Query(ctx, query, args...)
		tenants, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		if err != nil {
			return fmt.Errorf("list tenants with unsettled periods: %w", err)
		}
		if len(tenants) == 0 {
			return nil
		}
		if err := work(tenants); err != nil {
			return err
		}
		args[1] = tenants[len(tenants)-1]
	}
}

// eachTenantPage calls work with all tenants that have unsettled periods, or
// with the given one.
func (r *Reporter) eachTenantPage(ctx context.Context, tenant *uuid.UUID, work func([]uuid.UUID) error) error {
	return r.eachPage(ctx, tenantsSQL, r.now(), tenant, work)
}

// concurrently calls work for every item, at most limit at once.
func concurrently[T any](ctx context.Context, limit int, items []T, work func(context.Context, T) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(limit)
	for _, item := range items {
		group.Go(func() error { return work(ctx, item) })
	}
	return group.Wait()
}

// reportScope reports for all tenants of the scope.
func (p *pass) reportScope(ctx context.Context) error {
	query, more := tenantsSQL, []any(nil)
	if p.scope.Due {
		until := p.started
		if p.r.Sink == UsageRecords {
			until = until.Add(10 * time.Minute)
		}
		query, more = dueTenantsSQL, []any{until}
	}
	err := p.r.eachPage(ctx, query, p.started, p.scope.Tenant, func(tenants []uuid.UUID) error {
		if p.halted() {
			return errHalted
		}
		if err := p.reportTenants(ctx, tenants); err != nil {
			return err
		}
		p.result.Tenants += len(tenants)
		return nil
	}, more...)
	if errors.Is(err, errHalted) {
		return nil
	}
	return err
}

// maxRounds bounds how often a pass plans for a tenant: a customer and meter
// takes one entry at a time, so what one round has decided makes room for the
// next.
const maxRounds = 12

// reportTenants plans and sends until nothing more can be reported for the
// tenants.
func (p *pass) reportTenants(ctx context.Context, tenants []uuid.UUID) error {
	all := tenants
	for round := 0; round < maxRounds && len(tenants) > 0; round++ {
		accounts, err := p.loadAccounts(ctx, tenants)
		if err != nil {
			return err
		}
		if tenants, err = p.reportAccounts(ctx, accounts); err != nil {
			return err
		}
	}
	return settlePeriods(ctx, p.r.Pool, all, p.r.now())
}

// loadAccounts loads the accounts, after it has read the invoices of ended
// periods that are due.
func (p *pass) loadAccounts(ctx context.Context, tenants []uuid.UUID) ([]*tenantAccount, error) {
	accounts, err := p.r.load(ctx, tenants, p.r.now())
	if err != nil {
		return nil, err
	}
	if p.r.Sink == UsageRecords {
		if err := p.findItems(ctx, accounts); err != nil {
			return nil, err
		}
	}
	type invoiceOf struct {
		account *tenantAccount
		in      *period
	}
	var due []invoiceOf
	mayDecide := false // an invoice may show that Stripe has an entry whose call got no answer
	for _, a := range accounts {
		for _, in := range a.periods {
			if p.planner.invoiceCheckDue(a, in) {
				due = append(due, invoiceOf{a, in})
				mayDecide = mayDecide || len(a.unanswered(in)) > 0
			}
		}
	}
	if mayDecide {
		if err := p.ensureGenerationRaised(ctx); err != nil {
			return nil, err
		}
	}
	err = concurrently(ctx, p.concurrency(), due, func(ctx context.Context, i invoiceOf) error {
		if p.halted() {
			return nil
		}
		return p.noteReadError(p.r.readInvoice(ctx, &p.planner, i.account, i.in))
	})
	if err != nil || len(due) == 0 {
		return accounts, err
	}
	return p.r.load(ctx, tenants, p.r.now())
}

// noteReadError handles the error of a call that reads: a refused key ends the
// pass, an error on our side is returned, anything else is left to a later
// pass.
func (p *pass) noteReadError(err error) error {
	var ours *ourError
	switch {
	case err == nil:
		p.noteReachable(nil)
		return nil
	case errors.Is(err, errBreakerOpen):
		return nil // entries that need the answer stay; others can be sent
	case errors.As(err, &ours), errors.Is(err, context.Canceled):
		return err
	}
	p.noteReachable(err)
	if Classify(err, false) == OutcomeConfiguration {
		p.halt(fmt.Errorf("%w: %s", ErrKeyRefused, reason(err)))
	}
	return nil
}

// noteReachable notes whether a call got an answer.
func (p *pass) noteReachable(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil || answered(err) {
		p.answered = true
	} else {
		p.unanswered = true
	}
}

// concurrency is how many calls may run at once: one while the breaker is half
// open.
func (p *pass) concurrency() int {
	if p.r.sendBreaker.closed() {
		return maxConcurrentCalls
	}
	return 1
}

// findItems reads the subscription items of tenants with overage.
func (p *pass) findItems(ctx context.Context, accounts []*tenantAccount) error {
	return concurrently(ctx, p.concurrency(), accounts, func(ctx context.Context, a *tenantAccount) error {
		p.mu.Lock()
		known := p.items[a.subscription] != nil
		p.mu.Unlock()
		if a.subscription == "" || known || !a.hasAnyOverage() || p.halted() {
			return nil
		}
		if err := p.r.readLimit.Wait(ctx); err != nil {
			return err
		}
		var items map[string]string
		err := p.r.readBreaker.do(a.customer, func() (err error) {
			items, err = p.r.Stripe.meteredItems(ctx, a.subscription)
			return err
		})
		if err == nil {
			p.mu.Lock()
			p.items[a.subscription] = items
			p.mu.Unlock()
		}
		return p.noteReadError(err)
	})
}

func (a *tenantAccount) hasAnyOverage() bool { return slices.ContainsFunc(a.periods, a.hasOverage) }

// item returns the subscription item of an agent, "" when there is none.
func (p *pass) item(a *tenantAccount, u *agentUsage) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.items[a.subscription][u.lookupKey]
}
