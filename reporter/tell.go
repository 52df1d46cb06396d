package reporter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"odometer/audit/findings"
)

// maxThrottled is how often a pass tries a link that Stripe asks to wait with.
const maxThrottled = 6

// errHalted says that the pass has ended before the call was made.
var errHalted = errors.New("the pass has ended")

// errCrashed ends the work on a link as the end of the process would.
var errCrashed = errors.New("crashed by a test")

// tell sends a link and stores what became of it. What it returns is trouble
// on our side; Stripe's is in the ledger and the pass's result.
func (p *pass) tell(ctx context.Context, l *Link) error {
	for try := 1; ; try++ {
		if why := p.halted(); why != nil {
			p.leaveLink(l, "undecided", why.Error())
			return nil
		}
		if err := p.limit.Wait(ctx); err != nil {
			return err
		}
		before := *l
		err := p.attempt(ctx, l)
		switch {
		case errors.Is(err, errHalted):
			continue
		case errors.Is(err, errCrashed), errors.Is(err, errGone):
			return nil
		case errors.Is(err, errOpen):
			p.halt(errOpen)
			p.leaveLink(l, "undecided", errOpen.Error())
			return nil
		case errors.As(err, new(*ourError)):
			return err
		}
		p.heard(err)
		answer := Judge(err, before.FirstAttempt != nil)
		p.Metrics.reports.WithLabelValues(string(answer)).Inc()
		done, err := p.conclude(context.WithoutCancel(ctx), l, &before, answer, err, try)
		if done || err != nil {
			return ungone(err)
		}
	}
}

// attempt marks the link and makes the call. The mark is committed before, so
// that a crash leaves a link that may have arrived; an open breaker leaves it
// untouched. Once begun, it is not cut short by the end of the process.
func (p *pass) attempt(ctx context.Context, l *Link) error {
	ctx = context.WithoutCancel(ctx)
	return p.breaker.do(l.Customer, func() error {
		switch {
		case p.halted() != nil:
			return &ourError{errHalted}
		case p.crashes("stored", l):
			return &ourError{errCrashed}
		}
		now := p.now()
		if err := markSending(ctx, p.Pool, l, now); err != nil {
			return &ourError{err}
		}
		if l.State, l.LastAttempt = Sending, &now; l.FirstAttempt == nil {
			l.FirstAttempt = &now
		}
		l.Attempts++
		if p.crashes("marked", l) {
			return &ourError{errCrashed}
		}
		err := p.Stripe.send(ctx, l)
		if p.crashes("called", l) {
			return &ourError{errCrashed}
		}
		return err
	})
}

// conclude stores what an answer means. It reports whether the link is done
// with for this pass.
func (p *pass) conclude(ctx context.Context, l, before *Link, answer Answer, err error, try int) (done bool, _ error) {
	now := p.now()
	l.Detail = reason(err)
	switch answer {
	case Accepted:
		p.speedUp()
		return true, p.accept(ctx, l, now)
	case Configuration:
		p.halt(fmt.Errorf("%w: %s", ErrKeyRefused, reason(err)))
		p.leaveLink(l, "undecided", reason(err))
		*l = *before
		return true, unmark(ctx, p.Pool, before)
	case Throttled:
		*l = *before
		if err := unmark(ctx, p.Pool, before); err != nil {
			return true, err
		}
		if try >= maxThrottled {
			p.leaveLink(l, "undecided", "Stripe asks to slow down: "+reason(err))
			return true, nil
		}
		return false, p.slowDown(ctx, try)
	case Rejected:
		l.State, l.Decided = Refused, &now
		l.RetryAt = after(now, parkedFor)
		p.leaveLink(l, "parked", l.Detail)
		p.logFailure(l)
		return true, p.park(ctx, l)
	default:
		l.State = Uncertain
		l.RetryAt = after(now, backoff(l.Attempts))
		p.leaveLink(l, "undecided", l.Detail)
		p.logFailure(l)
		return true, decide(ctx, p.Pool, l)
	}
}

func after(t time.Time, d time.Duration) *time.Time {
	t = t.Add(d)
	return &t
}

// accept stores that Stripe has a link.
func (p *pass) accept(ctx context.Context, l *Link, now time.Time) error {
	l.State, l.Decided, l.RetryAt, l.AbsentSince, l.Detail = Taken, &now, nil, nil, ""
	if p.crashes("answered", l) {
		return nil
	}
	if err := decide(ctx, p.Pool, l); err != nil && !errors.Is(err, errGone) {
		return err
	}
	p.toldLink(l)
	p.Log.Info("overage told to Stripe", "tenant", l.Tenant, "agent", l.Agent, "units", l.Delta(), "customer", l.Customer)
	subject := parkedSubject(l.Tenant, l.Agent)
	if !p.parked[subject] {
		return nil
	}
	return findings.Resolve(ctx, p.Pool, kindParked, subject, "report", "Stripe has taken it")
}

const kindParked = "report_parked"

func parkedSubject(tenant fmt.Stringer, agent string) string { return tenant.String() + " " + agent }

// park stores that Stripe refuses a link, and tells the operators.
func (p *pass) park(ctx context.Context, l *Link) error {
	if err := decide(ctx, p.Pool, l); err != nil {
		return err
	}
	p.nowParked(l.Tenant.String(), l.Agent)
	units := l.Delta()
	return findings.Record(ctx, p.Pool, findings.Finding{
		Kind: kindParked, Subject: parkedSubject(l.Tenant, l.Agent), Tenant: l.Tenant, Agent: l.Agent, Period: l.Period,
		Detail: fmt.Sprintf("Stripe refuses %d units of overage for customer %s: %s; mend it there or by odometer subscription set, then: odometer report --tenant %s",
			units, l.Customer, l.Detail, l.Tenant),
		After: &units, FoundBy: "report",
	})
}

func (p *pass) logFailure(l *Link) {
	p.Log.Error("overage not told to Stripe", "tenant", l.Tenant, "agent", l.Agent, "units", l.Delta(),
		"customer", l.Customer, "state", l.State, "err", l.Detail)
}

// slowDown waits, longer each time, and lets the calls beside it come slower too.
func (p *pass) slowDown(ctx context.Context, try int) error {
	p.limit.SetLimit(max(p.limit.Limit()*0.8, 5))
	pause := min(time.Second<<try/4, 5*time.Second)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(pause):
		return nil
	}
}

// speedUp takes back, call by call, what slowDown did.
func (p *pass) speedUp() {
	if slow := p.limit.Limit(); slow < p.full {
		p.limit.SetLimit(min(slow*1.05, p.full))
	}
}

const kindUnbillable = "unbillable"

// noteUnbillable tells the operators of overage that no invoice will take.
func noteUnbillable(ctx context.Context, q querier, l *Link) error {
	units := l.Delta()
	return findings.Record(ctx, q, findings.Finding{
		Kind: kindUnbillable, Subject: fmt.Sprintf("%s %s %s", l.Tenant, l.Agent, l.Period.Format(time.RFC3339)),
		Tenant: l.Tenant, Agent: l.Agent, Period: l.Period, After: &units, FoundBy: "report",
		Detail: fmt.Sprintf("%d units of overage of customer %s reach no invoice (%s): bill or credit them by hand in Stripe", units, l.Customer, l.Detail),
	})
}
