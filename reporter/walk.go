package reporter

import (
	"context"
	"errors"
	"fmt"
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

// Due is a tenant with a period that has just ended, or that was closed or
// whose invoice is to be asked for since it was looked at last. Usage records
// do not reach a period that has ended: they are due shortly before.
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
      )) and (i.tenant_id is null or p.closed_at > i.looked_at)
      or i.look_at <= $1 and i.fixed_at is null
      or p.status = 'open' and p.period_end > $1 - interval '2 minutes' and p.period_end <= $5
  )
order by p.tenant_id
limit $4`

// eachPage walks the tenants of the scope in pages.
func (p *pass) eachPage(ctx context.Context, work func(context.Context, []uuid.UUID) error) error {
	query := tenantsSQL
	args := []any{p.started, uuid.Nil, p.scope.Tenant, pageSize}
	if p.scope.Due {
		query = dueTenantsSQL
		until := p.started
		if p.Sink == UsageRecords {
			until = until.Add(10 * time.Minute)
		}
		args = append(args, until)
	}
	for p.halted() == nil {
		rows, _ := p.Pool.Query(ctx, query, args...)
		tenants, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		if err != nil {
			return fmt.Errorf("list tenants with unsettled periods: %w", err)
		}
		if len(tenants) == 0 {
			return nil
		}
		if err := work(ctx, tenants); err != nil {
			return err
		}
		p.result.Tenants += len(tenants)
		args[1] = tenants[len(tenants)-1]
	}
	return nil
}

// maxRounds bounds how often one look at a tenant may follow from another: a
// customer and meter takes one link at a time.
const maxRounds = 12

// work looks at tenants until nothing more can be told them.
func (p *pass) work(ctx context.Context, tenants []uuid.UUID) error {
	all := tenants
	for round := 0; round < maxRounds && len(tenants) > 0; round++ {
		books, err := p.lookedAt(ctx, tenants)
		if err != nil {
			return err
		}
		if tenants, err = p.tellBooks(ctx, books); err != nil {
			return err
		}
	}
	return settle(ctx, p.Pool, all, p.now())
}

// lookedAt loads the books, once the invoices of ended periods were asked for.
func (p *pass) lookedAt(ctx context.Context, tenants []uuid.UUID) ([]*book, error) {
	books, err := p.load(ctx, tenants, p.now())
	if err != nil {
		return nil, err
	}
	if p.Sink == UsageRecords {
		if err := p.findItems(ctx, books); err != nil {
			return nil, err
		}
	}
	if p.mayDecide(books) {
		if err := p.raiseOnce(ctx); err != nil {
			return nil, err
		}
	}
	group, asking := errgroup.WithContext(ctx)
	group.SetLimit(p.sideBySide())
	looked := false
	for _, b := range books {
		for _, in := range b.periods {
			if !p.planner.wantsLook(b, in) {
				continue
			}
			looked = true
			group.Go(func() error { return p.lookOnce(asking, b, in) })
		}
	}
	if err := group.Wait(); err != nil || !looked {
		return books, err
	}
	return p.load(ctx, tenants, p.now())
}

// mayDecide reports whether an invoice may say that Stripe has something that
// it was told without an answer.
func (p *pass) mayDecide(books []*book) bool {
	for _, b := range books {
		for _, in := range b.periods {
			if p.planner.wantsLook(b, in) && len(b.unanswered(in)) > 0 {
				return true
			}
		}
	}
	return false
}

// lookOnce asks for an invoice; a Stripe that does not answer is left for later.
func (p *pass) lookOnce(ctx context.Context, b *book, in *period) error {
	if p.halted() != nil {
		return nil
	}
	_, err := p.look(ctx, &p.planner, b, in)
	return p.asked(err)
}

// asked takes the error of a question to Stripe: what ends the pass, ends it;
// what may pass by, passes; what is ours is returned.
func (p *pass) asked(err error) error {
	var ours *ourError
	switch {
	case err == nil:
		p.heard(nil)
		return nil
	case errors.Is(err, errOpen):
		return nil // what needs an answer is left; the rest can be told
	case errors.As(err, &ours), errors.Is(err, context.Canceled):
		return err
	}
	p.heard(err)
	if Judge(err, false) == Configuration {
		p.halt(fmt.Errorf("%w: %s", ErrKeyRefused, reason(err)))
	}
	return nil
}

// heard notes whether a call got an answer.
func (p *pass) heard(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil || answered(err) {
		p.answered = true
	} else {
		p.silent = true
	}
}

// sideBySide is how many calls may be under way: half open, one finds out for all.
func (p *pass) sideBySide() int {
	if p.breaker.closed() {
		return maxUnderWay
	}
	return 1
}
