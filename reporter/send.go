package reporter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"odometer/audit/findings"
)

// reportAccounts plans and sends what the accounts owe. It returns the tenants
// to plan for again, since what was decided makes room for more.
func (p *pass) reportAccounts(ctx context.Context, accounts []*tenantAccount) (again []uuid.UUID, err error) {
	var entries, ready []*LedgerEntry
	plans := make([]plan, len(accounts))
	p.planner.now = p.r.now()
	for i, a := range accounts {
		plans[i] = p.planner.plan(a)
		entries = append(entries, plans[i].entries...)
		for _, e := range a.entries {
			if e.State == Planned {
				ready = append(ready, e)
			}
		}
	}
	stored, err := p.storeEntries(ctx, entries)
	if err != nil {
		return nil, err
	}
	accepted, err := p.sendEntries(ctx, append(ready, stored...))
	if err != nil {
		return nil, err
	}
	for i, a := range accounts {
		if plans[i].again && accepted[a.tenant] && !p.halted() {
			again = append(again, a.tenant)
		} else {
			p.leave(plans[i].left...)
			if err := p.recordParked(ctx, plans[i].left); err != nil {
				return nil, err
			}
		}
	}
	return again, nil
}

// recordParked records findings for overage that waits for people.
func (p *pass) recordParked(ctx context.Context, left []Left) error {
	for _, l := range left {
		if l.State != "parked" {
			continue
		}
		detail := fmt.Sprintf("%d units of overage cannot be reported: %s; then: odometer report --tenant %s", l.Units, l.Reason, l.Tenant)
		if err := p.recordOverageParked(ctx, l.Tenant, l.Agent, l.Period, l.Units, detail); err != nil {
			return err
		}
	}
	return nil
}

// storeEntries commits entries before anything is sent, and returns those to
// send.
func (p *pass) storeEntries(ctx context.Context, entries []*LedgerEntry) ([]*LedgerEntry, error) {
	if len(entries) == 0 || p.halted() {
		return nil, nil
	}
	if err := p.ensureGenerationRaised(ctx); err != nil {
		return nil, err
	}
	for _, e := range entries {
		e.Generation = p.generation.number
	}
	stored, err := insertEntries(ctx, p.r.Pool, entries)
	if err != nil {
		return nil, err
	}
	p.leaveUnstored(entries, stored)
	toSend := stored[:0]
	for _, e := range stored {
		if e.State == Planned {
			toSend = append(toSend, e)
			continue
		}
		if err := recordUnbillable(ctx, p.r.Pool, e); err != nil {
			return nil, err
		}
		p.leaveEntry(e, "refused", e.Detail)
	}
	return toSend, nil
}

// leaveUnstored leaves the entries that wait for another tenant's entry of the
// same customer and meter.
func (p *pass) leaveUnstored(entries, stored []*LedgerEntry) {
	isStored := map[*LedgerEntry]bool{}
	for _, e := range stored {
		isStored[e] = true
	}
	for _, e := range entries {
		if !isStored[e] {
			p.leaveEntry(e, "undecided", "another report for this customer and meter is in progress")
		}
	}
}

// ensureGenerationRaised raises the generation before the pass's first call.
func (p *pass) ensureGenerationRaised(ctx context.Context) error {
	if p.generationRaised {
		return nil
	}
	if err := p.r.checkUnits(ctx, p.generation); err != nil {
		return err
	}
	if err := p.r.raiseGeneration(ctx, p.generation); err != nil {
		return err
	}
	p.generationRaised = true
	return nil
}

// sendEntries sends entries concurrently and returns the tenants for which
// Stripe accepted one.
func (p *pass) sendEntries(ctx context.Context, entries []*LedgerEntry) (accepted map[uuid.UUID]bool, err error) {
	accepted = map[uuid.UUID]bool{}
	if len(entries) == 0 {
		return accepted, nil
	}
	if err := p.ensureGenerationRaised(ctx); err != nil {
		return nil, err
	}
	err = concurrently(ctx, p.concurrency(), entries, p.sendEntry)
	for _, e := range entries {
		if e.State.isAccepted() {
			accepted[e.Tenant] = true
		}
	}
	return accepted, err
}

// maxThrottled is how often a pass sends an entry that Stripe throttles.
const maxThrottled = 6

// errHalted says that the pass has ended before the call was made.
var errHalted = errors.New("the pass has ended")

// errTestCrash ends the work on an entry as a crash of the process would.
var errTestCrash = errors.New("crashed by a test")

// sendEntry sends an entry and stores the outcome. It returns errors on our
// side only; those of Stripe are in the ledger and in the pass's result.
func (p *pass) sendEntry(ctx context.Context, e *LedgerEntry) error {
	for try := 1; ; try++ {
		if p.halted() {
			p.leaveEntry(e, "undecided", p.whyHalted())
			return nil
		}
		if err := p.r.sendLimit.Wait(ctx); err != nil {
			return err
		}
		before := *e
		err := p.attempt(ctx, e)
		switch {
		case errors.Is(err, errHalted):
			continue
		case errors.Is(err, errTestCrash), errors.Is(err, errDecidedElsewhere):
			return nil
		case errors.Is(err, errBreakerOpen):
			p.halt(errBreakerOpen)
			p.leaveEntry(e, "undecided", errBreakerOpen.Error())
			return nil
		case errors.As(err, new(*ourError)):
			return err
		}
		p.noteReachable(err)
		outcome := Classify(err, before.FirstAttempt != nil)
		p.r.Metrics.reports.WithLabelValues(string(outcome)).Inc()
		done, err := p.applyOutcome(context.WithoutCancel(ctx), e, &before, outcome, err, try)
		if done || err != nil {
			return ignoreDecidedElsewhere(err)
		}
	}
}

// attempt marks the entry and makes the call. The mark is committed before the
// call, so that a crash leaves an entry that may have arrived; an open breaker
// leaves it untouched. Once started, the end of the process does not cut it
// short.
func (p *pass) attempt(ctx context.Context, e *LedgerEntry) error {
	ctx = context.WithoutCancel(ctx)
	return p.r.sendBreaker.do(e.Customer, func() error {
		switch {
		case p.halted():
			return &ourError{errHalted}
		case p.r.crashes("stored", e):
			return &ourError{errTestCrash}
		}
		now := p.r.now()
		if err := markSending(ctx, p.r.Pool, e, now); err != nil {
			return &ourError{err}
		}
		if e.State, e.LastAttempt = Sending, &now; e.FirstAttempt == nil {
			e.FirstAttempt = &now
		}
		e.Attempts++
		if p.r.crashes("marked", e) {
			return &ourError{errTestCrash}
		}
		err := p.r.Stripe.send(ctx, e)
		if p.r.crashes("called", e) {
			return &ourError{errTestCrash}
		}
		return err
	})
}

// applyOutcome stores what an outcome means. done reports whether the pass is
// done with the entry.
func (p *pass) applyOutcome(ctx context.Context, e, before *LedgerEntry, outcome Outcome, err error, try int) (done bool, _ error) {
	now := p.r.now()
	e.Detail = reason(err)
	switch outcome {
	case OutcomeAccepted:
		p.speedUp()
		return true, p.storeAccepted(ctx, e, now)
	case OutcomeConfiguration:
		p.halt(fmt.Errorf("%w: %s", ErrKeyRefused, reason(err)))
		p.leaveEntry(e, "undecided", reason(err))
		*e = *before
		return true, undoSending(ctx, p.r.Pool, before)
	case OutcomeThrottled:
		*e = *before
		if err := undoSending(ctx, p.r.Pool, before); err != nil {
			return true, err
		}
		if try >= maxThrottled {
			p.leaveEntry(e, "undecided", "Stripe asks to slow down: "+reason(err))
			return true, nil
		}
		return false, p.slowDown(ctx, try)
	case OutcomeRejected:
		e.State, e.Decided = Rejected, &now
		e.RetryAt = after(now, parkedFor)
		p.leaveEntry(e, "parked", e.Detail)
		p.logFailure(e)
		return true, p.storeParked(ctx, e)
	default:
		e.State = Unknown
		e.RetryAt = after(now, backoff(e.Attempts))
		p.leaveEntry(e, "undecided", e.Detail)
		p.logFailure(e)
		return true, storeDecision(ctx, p.r.Pool, e)
	}
}

func after(t time.Time, d time.Duration) *time.Time {
	t = t.Add(d)
	return &t
}

// storeAccepted stores that Stripe has the entry.
func (p *pass) storeAccepted(ctx context.Context, e *LedgerEntry, now time.Time) error {
	e.State, e.Decided, e.RetryAt, e.AbsentSince, e.Detail = Accepted, &now, nil, nil, ""
	if p.r.crashes("answered", e) {
		return nil
	}
	if err := storeDecision(ctx, p.r.Pool, e); err != nil && !errors.Is(err, errDecidedElsewhere) {
		return err
	}
	p.noteReported(e)
	p.r.Log.Info("overage reported to Stripe", "tenant", e.Tenant, "agent", e.Agent, "units", e.Delta(), "customer", e.Customer)
	subject := parkedSubject(e.Tenant, e.Agent)
	if !p.openParked[subject] {
		return nil
	}
	return findings.Resolve(ctx, p.r.Pool, kindParked, subject, "report", "Stripe has accepted it")
}

const kindParked = "report_parked"

func parkedSubject(tenant uuid.UUID, agent string) string { return tenant.String() + " " + agent }

// recordOverageParked records a finding that a tenant's overage of an agent waits for
// people.
func (p *pass) recordOverageParked(ctx context.Context, tenant uuid.UUID, agent string, period time.Time, units int64, detail string) error {
	subject := parkedSubject(tenant, agent)
	p.mu.Lock()
	p.stillParked[subject] = true
	p.mu.Unlock()
	return findings.Record(ctx, p.r.Pool, findings.Finding{
		Kind: kindParked, Subject: subject, Tenant: tenant, Agent: agent, Period: period, Detail: detail, After: &units, FoundBy: "report",
	})
}

// storeParked stores that Stripe rejects the entry, and records a finding.
func (p *pass) storeParked(ctx context.Context, e *LedgerEntry) error {
	if err := storeDecision(ctx, p.r.Pool, e); err != nil {
		return err
	}
	return p.recordOverageParked(ctx, e.Tenant, e.Agent, e.Period, e.Delta(),
		fmt.Sprintf("Stripe rejects %d units of overage for customer %s: %s; correct it in Stripe or with odometer subscription set, then: odometer report --tenant %s",
			e.Delta(), e.Customer, e.Detail, e.Tenant))
}

func (p *pass) logFailure(e *LedgerEntry) {
	p.r.Log.Error("overage not reported to Stripe", "tenant", e.Tenant, "agent", e.Agent, "units", e.Delta(),
		"customer", e.Customer, "state", e.State, "reason", e.Detail)
}

// slowDown waits, longer each time, and lowers the rate of all calls that send.
func (p *pass) slowDown(ctx context.Context, try int) error {
	p.r.sendLimit.SetLimit(max(p.r.sendLimit.Limit()*0.8, 5))
	pause := min(time.Second<<try/4, 5*time.Second)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(pause):
		return nil
	}
}

// speedUp undoes slowDown step by step, one step per accepted call.
func (p *pass) speedUp() {
	if slow := p.r.sendLimit.Limit(); slow < p.r.fullSendLimit {
		p.r.sendLimit.SetLimit(min(slow*1.05, p.r.fullSendLimit))
	}
}

const kindUnbillable = "unbillable"

// recordUnbillable records a finding for overage that no invoice will take.
func recordUnbillable(ctx context.Context, q querier, e *LedgerEntry) error {
	units := e.Delta()
	return findings.Record(ctx, q, findings.Finding{
		Kind: kindUnbillable, Subject: fmt.Sprintf("%s %s %s", e.Tenant, e.Agent, e.Period.Format(time.RFC3339)),
		Tenant: e.Tenant, Agent: e.Agent, Period: e.Period, After: &units, FoundBy: "report",
		Detail: fmt.Sprintf("%d units of overage of customer %s reach no invoice (%s): bill or credit them by hand in Stripe", units, e.Customer, e.Detail),
	})
}
