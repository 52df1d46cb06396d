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

// Scope is what a pass covers.
type Scope struct {
	Tenant *uuid.UUID // nil: all
	ByHand bool       // also what is parked or waits for its retry
	Due    bool       // only tenants for which something is due now
}

// ReportedEntry is a ledger entry that Stripe accepted in a pass.
type ReportedEntry struct {
	Tenant   uuid.UUID `json:"tenant_id"`
	Agent    string    `json:"agent"`
	Period   time.Time `json:"period_start"`
	Customer string    `json:"stripe_customer"`
	Units    int64     `json:"units"`
}

// Result is the result of a pass. The lists end at maxListed; the numbers are
// complete.
type Result struct {
	Tenants         int             `json:"tenants"`    // examined
	Reported        int             `json:"told"`       // entries that Stripe accepted
	Units           int64           `json:"units"`      // their sum, signed
	LeftCount       int             `json:"left_count"` // parked, undecided or refused
	ReportedEntries []ReportedEntry `json:"told_links"`
	Left            []Left          `json:"left"`
	Stopped         string          `json:"stopped"` // why the pass ended early, "" when it did not
}

const maxListed = 1000

// pageSize is how many tenants are loaded together; it bounds a pass's memory.
const pageSize = 1000

// pass is one run over the tenants.
type pass struct {
	r                *Reporter
	scope            Scope
	planner          planner
	started          time.Time
	generation       *ledgerGeneration
	generationRaised bool
	openParked       map[string]bool // subjects of findings that were open before

	mu          sync.Mutex
	stillParked map[string]bool // subjects that are still parked
	result      Result
	answered    bool  // some call got an HTTP answer
	unanswered  bool  // some call got none
	stopReason  error // why no further call starts: ErrKeyRefused, errBreakerOpen
	items       map[string]map[string]string
}

// Pass reports to Stripe all overage that is not reported yet. Passes of
// several processes take turns. The error is ErrKeyRefused, ErrUnreachable,
// ErrRestored or ErrMixed where the pass could not start or continue; the
// result then says what was done until then. It is always safe to call it
// again.
func (r *Reporter) Pass(ctx context.Context, scope Scope) (Result, error) {
	switch {
	case r.Sink == DryRun && scope.Due:
		return Result{}, nil
	case r.Sink == DryRun:
		return Result{}, r.settleTenants(ctx, scope)
	}
	result, err := r.runPass(ctx, scope)
	return result, errors.Join(err, r.recordStopped(context.WithoutCancel(ctx), err))
}

func (r *Reporter) runPass(ctx context.Context, scope Scope) (Result, error) {
	release, err := r.lockPass(ctx)
	if err != nil {
		return Result{}, err
	}
	defer release()
	p, err := r.preflight(ctx, scope)
	if errors.Is(err, ErrUnreachable) && r.nothingToReport(ctx, scope) {
		return Result{}, nil
	}
	if err != nil {
		return Result{}, err
	}
	err = p.run(ctx)
	if p.generationRaised {
		err = errors.Join(err, p.r.mirrorUnits(context.WithoutCancel(ctx), p.generation))
	}
	return p.result, err
}

const anyUndecidedSQL = `
select exists (
    select from overage_reports
    where state in ('planned', 'sending', 'unknown')
      and ($1::uuid is null or tenant_id = $1)
)`

// nothingToReport reports whether there is no overage to send, so that Stripe
// being down is not an error.
func (r *Reporter) nothingToReport(ctx context.Context, scope Scope) bool {
	var open bool
	if err := r.Pool.QueryRow(ctx, anyUndecidedSQL, scope.Tenant).Scan(&open); err != nil || open {
		return false
	}
	err := r.Statement(ctx, scope.Tenant, func(l Line) { open = open || l.ToReport != 0 })
	return err == nil && !open
}

const kindStopped = "reporter_stopped"

// recordStopped records a finding for an error that no later pass will cure.
func (r *Reporter) recordStopped(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return findings.Resolve(ctx, r.Pool, kindStopped, "ledger", "report", "a pass has succeeded")
	case errors.Is(err, ErrRestored), errors.Is(err, ErrKeyRefused), errors.Is(err, ErrMixed):
		return findings.Record(ctx, r.Pool, findings.Finding{
			Kind: kindStopped, Subject: "ledger", Detail: "no overage is reported: " + oneLine(err.Error()), FoundBy: "report",
		})
	}
	return nil
}

// run reports first what is new, then what has failed before, so that entries
// that keep failing delay nobody else.
func (p *pass) run(ctx context.Context) error {
	err := p.reportScope(ctx)
	if err == nil {
		err = p.retryUndecided(ctx)
	}
	if err == nil {
		err = p.resolveFindings(ctx)
	}
	return p.endError(ctx, err)
}

// resolveFindings resolves the findings that a complete pass has found to be
// over.
func (p *pass) resolveFindings(ctx context.Context) error {
	if p.halted() || p.scope.Due || p.scope.Tenant != nil {
		return nil
	}
	for subject := range p.openParked {
		if p.stillParked[subject] {
			continue
		}
		if err := findings.Resolve(ctx, p.r.Pool, kindParked, subject, "report", "nothing is left to report"); err != nil {
			return err
		}
	}
	if _, err := p.r.Pool.Exec(ctx, resolveUnclearSQL, kindUnclear); err != nil {
		return fmt.Errorf("resolve findings of decided entries: %w", err)
	}
	if _, err := p.r.Pool.Exec(ctx, resolveOldSQL, []string{kindLate, kindNotInvoiced, kindUnbillable}); err != nil {
		return fmt.Errorf("resolve old findings: %w", err)
	}
	return nil
}

// An unclear entry may also be decided by an invoice, or by the comparison
// after a restored backup.
const resolveUnclearSQL = `
update audit_findings f
set resolved_at = now(),
    resolved_by = 'report',
    resolution = 'the ledger entry is ' || r.state
from overage_reports r
where f.kind = $1
  and f.resolved_at is null
  and r.identifier = f.subject
  and r.state not in ('planned', 'sending', 'unknown')`

// Nothing that happens here could end a finding about an invoice.
const resolveOldSQL = `
update audit_findings
set resolved_at = now(),
    resolved_by = 'report',
    resolution = 'it was reported a week ago'
where kind = any($1)
  and resolved_at is null
  and found_at < now() - interval '7 days'`

// endError is the error with which a pass ends.
func (p *pass) endError(ctx context.Context, err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopReason != nil {
		p.result.Stopped = p.stopReason.Error()
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil && !errors.Is(err, p.stopReason):
		return err
	case errors.Is(p.stopReason, ErrKeyRefused):
		return p.stopReason
	case p.unanswered && !p.answered:
		return fmt.Errorf("%w: no call got an answer: nothing was lost, call again later", ErrUnreachable)
	}
	return nil
}

// halted reports whether no further call may start.
func (p *pass) halted() bool { return p.whyHalted() != "" }

// whyHalted says why no further call may start, "" when one may.
func (p *pass) whyHalted() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopReason == nil {
		return ""
	}
	return p.stopReason.Error()
}

func (p *pass) halt(why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopReason == nil || errors.Is(why, ErrKeyRefused) {
		p.stopReason = why
	}
}

// leave adds to the result what the pass could not report.
func (p *pass) leave(left ...Left) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.result.LeftCount += len(left)
	room := min(len(left), maxListed-len(p.result.Left))
	p.result.Left = append(p.result.Left, left[:room]...)
}

func (p *pass) leaveEntry(e *LedgerEntry, state, reason string) {
	p.leave(Left{
		Tenant: e.Tenant, Agent: e.Agent, Period: e.Period, Customer: e.Customer,
		Units: e.Delta(), State: state, Reason: reason,
	})
}

func (p *pass) noteReported(e *LedgerEntry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.result.Reported++
	p.result.Units += e.Delta()
	if len(p.result.ReportedEntries) < maxListed {
		p.result.ReportedEntries = append(p.result.ReportedEntries, ReportedEntry{e.Tenant, e.Agent, e.Period, e.Customer, e.Delta()})
	}
}
