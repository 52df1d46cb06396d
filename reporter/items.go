package reporter

import (
	"context"

	"golang.org/x/sync/errgroup"
)

// findItems asks for the subscription items of tenants with overage.
func (p *pass) findItems(ctx context.Context, books []*book) error {
	group, asking := errgroup.WithContext(ctx)
	group.SetLimit(p.sideBySide())
	for _, b := range books {
		p.mu.Lock()
		known := p.items[b.subscription] != nil
		p.mu.Unlock()
		if b.subscription == "" || known || !b.concernsAny() || p.halted() != nil {
			continue
		}
		group.Go(func() error { return p.findItemsOf(asking, b) })
	}
	return group.Wait()
}

func (p *pass) findItemsOf(ctx context.Context, b *book) error {
	if err := p.reads.Wait(ctx); err != nil {
		return err
	}
	var items map[string]string
	err := p.asking.do(b.customer, func() (err error) {
		items, err = p.Stripe.meteredItems(ctx, b.subscription)
		return err
	})
	if err == nil {
		p.mu.Lock()
		p.items[b.subscription] = items
		p.mu.Unlock()
	}
	return p.asked(err)
}

func (b *book) concernsAny() bool {
	for _, in := range b.periods {
		if b.concerns(in) {
			return true
		}
	}
	return false
}

// item is the subscription item of an agent, "" when there is none.
func (p *pass) item(b *book, u *use) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.items[b.subscription][u.lookupKey]
}
