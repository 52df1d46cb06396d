package reporter

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"odometer/audit/findings"
)

// tellBooks plans and sends what the books owe. It returns the tenants that
// should be looked at again, since what was decided makes room for more.
func (p *pass) tellBooks(ctx context.Context, books []*book) (again []uuid.UUID, err error) {
	var links, ready []*Link
	plans := make([]plan, len(books))
	p.planner.now = p.now()
	for i, b := range books {
		plans[i] = p.planner.plan(b)
		links = append(links, plans[i].links...)
		for _, l := range b.links {
			if l.State == Planned {
				ready = append(ready, l)
			}
		}
	}
	stored, err := p.store(ctx, links)
	if err != nil {
		return nil, err
	}
	accepted, err := p.sendAll(ctx, append(ready, stored...))
	if err != nil {
		return nil, err
	}
	for i, b := range books {
		if plans[i].again && accepted[b.tenant] && p.halted() == nil {
			again = append(again, b.tenant)
		} else {
			p.leave(plans[i].left...)
			if err := p.findParked(ctx, plans[i].left); err != nil {
				return nil, err
			}
		}
	}
	return again, nil
}

// findParked tells the operators of overage that waits for them.
func (p *pass) findParked(ctx context.Context, left []Left) error {
	for i := range left {
		l := &left[i]
		if l.State != "parked" {
			continue
		}
		p.nowParked(l.Tenant, l.Agent)
		tenant, err := uuid.Parse(l.Tenant)
		if err != nil {
			return err
		}
		err = findings.Record(ctx, p.Pool, findings.Finding{
			Kind: kindParked, Subject: parkedSubject(tenant, l.Agent), Tenant: tenant, Agent: l.Agent, Period: l.Period,
			Detail: fmt.Sprintf("%d units of overage cannot be told: %s; then: odometer report --tenant %s", l.Units, l.Reason, l.Tenant),
			After:  &l.Units, FoundBy: "report",
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// store commits links before anything is sent, and returns those to send.
func (p *pass) store(ctx context.Context, links []*Link) ([]*Link, error) {
	if len(links) == 0 || p.halted() != nil {
		return nil, nil
	}
	if err := p.raiseOnce(ctx); err != nil {
		return nil, err
	}
	for _, l := range links {
		l.Generation = p.gen.number
	}
	stored, err := insertLinks(ctx, p.Pool, links)
	if err != nil {
		return nil, err
	}
	p.leaveUnstored(links, stored)
	toSend := stored[:0]
	for _, l := range stored {
		if l.State == Planned {
			toSend = append(toSend, l)
			continue
		}
		if err := noteUnbillable(ctx, p.Pool, l); err != nil {
			return nil, err
		}
		p.leaveLink(l, "refused", l.Detail)
	}
	return toSend, nil
}

// leaveUnstored notes the links that wait for another tenant's of the same
// customer and meter.
func (p *pass) leaveUnstored(links, stored []*Link) {
	isStored := map[*Link]bool{}
	for _, l := range stored {
		isStored[l] = true
	}
	for _, l := range links {
		if !isStored[l] {
			p.leaveLink(l, "undecided", "another report for this customer and meter is under way")
		}
	}
}

// raiseOnce raises the generation before the pass's first call.
func (p *pass) raiseOnce(ctx context.Context) error {
	if p.raised {
		return nil
	}
	if err := p.intact(ctx, p.gen); err != nil {
		return err
	}
	if err := p.raise(ctx, p.gen); err != nil {
		return err
	}
	p.raised = true
	return nil
}

// sendAll sends links side by side and tells for which tenants Stripe took one.
func (p *pass) sendAll(ctx context.Context, links []*Link) (accepted map[uuid.UUID]bool, err error) {
	accepted = map[uuid.UUID]bool{}
	if len(links) == 0 {
		return accepted, nil
	}
	if err := p.raiseOnce(ctx); err != nil {
		return nil, err
	}
	group, sending := errgroup.WithContext(ctx)
	group.SetLimit(p.sideBySide())
	for _, l := range links {
		group.Go(func() error { return p.tell(sending, l) })
	}
	err = group.Wait()
	for _, l := range links {
		if l.State.counts() {
			accepted[l.Tenant] = true
		}
	}
	return accepted, err
}
