package reporter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"

	"odometer/audit/findings"
)

// Scope is what a pass looks at.
type Scope struct {
	Tenant *uuid.UUID // nil: all
	ByHand bool       // also what is parked or backs off
	Due    bool       // only tenants for which something is due now
}

// Told is a link that Stripe accepted in a pass.
type Told struct {
	Tenant   uuid.UUID `json:"tenant_id"`
	Agent    string    `json:"agent"`
	Period   time.Time `json:"period_start"`
	Customer string    `json:"stripe_customer"`
	Units    int64     `json:"units"`
}

// Result is what a pass came to. The lists are cut at maxListed; the figures
// are whole.
type Result struct {
	Tenants   int    `json:"tenants"`    // looked at
	Told      int    `json:"told"`       // links that Stripe accepted
	Units     int64  `json:"units"`      // their sum, signed
	LeftCount int    `json:"left_count"` // parked, undecided or refused
	ToldLinks []Told `json:"told_links"`
	Left      []Left `json:"left"`
	Stopped   string `json:"stopped"` // why the pass ended early, "" when it did not
}

const maxListed = 1000

// pageSize is how many tenants are looked at together; it bounds a pass's memory.
const pageSize = 1000

// pass is one walk over the tenants.
type pass struct {
	*Reporter
	scope   Scope
	planner planner
	started time.Time
	gen     *generation
	raised  bool
	parked  map[string]bool // subjects of findings that are open since before

	mu       sync.Mutex
	stays    map[string]bool // subjects that are parked still
	result   Result
	answered bool  // some call got an HTTP answer
	silent   bool  // some call got none
	stop     error // why no further call starts: ErrKeyRefused, errOpen
	items    map[string]map[string]string
}

// Pass tells Stripe what it does not know yet. Passes of several processes take
// turns. The error is ErrKeyRefused, ErrUnreachable, ErrRestored or ErrMixed
// where the pass could not begin or go on; the result then says what came of
// it until then. It is always safe to call it again.
func (r *Reporter) Pass(ctx context.Context, scope Scope) (Result, error) {
	switch {
	case r.Sink == DryRun && scope.Due:
		return Result{}, nil
	case r.Sink == DryRun:
		return Result{}, r.settleAll(ctx, scope)
	}
	result, err := r.passAlone(ctx, scope)
	return result, errors.Join(err, r.noteStopped(context.WithoutCancel(ctx), err))
}

func (r *Reporter) passAlone(ctx context.Context, scope Scope) (Result, error) {
	release, err := r.lock(ctx)
	if err != nil {
		return Result{}, err
	}
	defer release()
	p, err := r.begin(ctx, scope)
	if errors.Is(err, ErrUnreachable) && r.nothingToTell(ctx, scope) {
		return Result{}, nil
	}
	if err != nil {
		return Result{}, err
	}
	err = p.run(ctx)
	if p.raised {
		err = errors.Join(err, p.finish(context.WithoutCancel(ctx), p.gen))
	}
	return p.result, err
}

const openLinksSQL = `
select exists (
    select from overage_reports
    where state in ('planned', 'sending', 'unknown')
      and ($1::uuid is null or tenant_id = $1)
)`

// nothingToTell reports whether a Stripe that does not answer is not needed.
func (r *Reporter) nothingToTell(ctx context.Context, scope Scope) bool {
	var open bool
	if err := r.Pool.QueryRow(ctx, openLinksSQL, scope.Tenant).Scan(&open); err != nil || open {
		return false
	}
	err := r.Statement(ctx, scope.Tenant, func(l Line) { open = open || l.ToTell != 0 })
	return err == nil && !open
}

const kindStopped = "reporter_stopped"

// noteStopped tells the operators of what no later pass will heal by itself.
func (r *Reporter) noteStopped(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return findings.Resolve(ctx, r.Pool, kindStopped, "ledger", "report", "a pass went through")
	case errors.Is(err, ErrRestored), errors.Is(err, ErrKeyRefused), errors.Is(err, ErrMixed):
		return findings.Record(ctx, r.Pool, findings.Finding{
			Kind: kindStopped, Subject: "ledger", Detail: "no overage is told: " + oneLine(err.Error()), FoundBy: "report",
		})
	}
	return nil
}

// run walks: first what is new, then what has failed before, so that those who
// keep failing hold nobody up.
func (p *pass) run(ctx context.Context) error {
	if err := p.eachPage(ctx, p.work); err != nil {
		return p.outcome(ctx, err)
	}
	if err := p.retryUndecided(ctx); err != nil {
		return p.outcome(ctx, err)
	}
	return p.outcome(ctx, p.tidy(ctx))
}

// nowParked notes that a tenant's overage of an agent waits for people.
func (p *pass) nowParked(tenant, agent string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stays[tenant+" "+agent] = true
}

// tidy resolves findings that a whole pass has found to be over.
func (p *pass) tidy(ctx context.Context) error {
	if p.halted() != nil || p.scope.Due || p.scope.Tenant != nil {
		return nil
	}
	for subject := range p.parked {
		if p.stays[subject] {
			continue
		}
		if err := findings.Resolve(ctx, p.Pool, kindParked, subject, "report", "nothing is left to tell"); err != nil {
			return err
		}
	}
	if _, err := p.Pool.Exec(ctx, becameClearSQL, kindUnclear); err != nil {
		return fmt.Errorf("resolve findings of what was decided: %w", err)
	}
	return p.forgetLate(ctx)
}

// An unclear link may also be decided by an invoice, or by a comparison after a
// restored backup.
const becameClearSQL = `
update audit_findings f
set resolved_at = now(),
    resolved_by = 'report',
    resolution = 'the link is ' || r.state
from overage_reports r
where f.kind = $1
  and f.resolved_at is null
  and r.identifier = f.subject
  and r.state not in ('planned', 'sending', 'unknown')`

const forgetLateSQL = `
update audit_findings
set resolved_at = now(),
    resolved_by = 'report',
    resolution = 'it was told a week ago'
where kind = any($1)
  and resolved_at is null
  and found_at < now() - interval '7 days'`

// forgetLate resolves what was said about invoices when it is no news any more:
// nothing that is done here could end it.
func (p *pass) forgetLate(ctx context.Context) error {
	if _, err := p.Pool.Exec(ctx, forgetLateSQL, []string{kindLate, kindNotInvoiced, kindUnbillable}); err != nil {
		return fmt.Errorf("resolve old findings: %w", err)
	}
	return nil
}

// outcome says why a pass ended as it did.
func (p *pass) outcome(ctx context.Context, err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stop != nil {
		p.result.Stopped = p.stop.Error()
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil && !errors.Is(err, p.stop):
		return err
	case errors.Is(p.stop, ErrKeyRefused):
		return p.stop
	case p.silent && !p.answered:
		return fmt.Errorf("%w: no call got an answer: nothing was lost, call again later", ErrUnreachable)
	}
	return nil
}

// halted is why no further call may start, nil when one may.
func (p *pass) halted() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stop
}

func (p *pass) halt(why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stop == nil || errors.Is(why, ErrKeyRefused) {
		p.stop = why
	}
}

// leave notes what the pass could not tell.
func (p *pass) leave(left ...Left) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.result.LeftCount += len(left)
	room := min(len(left), maxListed-len(p.result.Left))
	p.result.Left = append(p.result.Left, left[:room]...)
}

func (p *pass) leaveLink(l *Link, state, reason string) {
	p.leave(Left{
		Tenant: l.Tenant.String(), Agent: l.Agent, Period: l.Period, Customer: l.Customer,
		Units: l.Delta(), State: state, Reason: reason,
	})
}

func (p *pass) toldLink(l *Link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.result.Told++
	p.result.Units += l.Delta()
	if len(p.result.ToldLinks) < maxListed {
		p.result.ToldLinks = append(p.result.ToldLinks, Told{l.Tenant, l.Agent, l.Period, l.Customer, l.Delta()})
	}
}
