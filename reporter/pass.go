package reporter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"odometer/findings"
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
	parked  map[string]bool // subjects that are parked since before

	mu       sync.Mutex
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
	if err != nil {
		return Result{}, err
	}
	err = p.run(ctx)
	if p.raised {
		err = errors.Join(err, p.finish(context.WithoutCancel(ctx), p.gen))
	}
	return p.result, err
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

const lockPassSQL = `select pg_try_advisory_lock(hashtextextended('odometer overage pass', 0))`
const unlockPassSQL = `select pg_advisory_unlock(hashtextextended('odometer overage pass', 0))`

// lockRetry is how often a waiting pass looks whether the one before has ended.
const lockRetry = 100 * time.Millisecond

// lock waits until no other pass runs. The lock is held on a connection of its
// own, so it goes with the process; who waits holds none, else those who wait
// could take all that the one that runs needs.
func (r *Reporter) lock(ctx context.Context) (release func(), err error) {
	for {
		release, err = r.tryLock(ctx)
		if release != nil || err != nil {
			return release, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for other passes: %w", ctx.Err())
		case <-time.After(lockRetry):
		}
	}
}

// tryLock returns nil when another pass runs.
func (r *Reporter) tryLock(ctx context.Context) (release func(), err error) {
	conn, err := r.Pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("wait for other passes: %w", err)
	}
	unlock := func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if _, err := conn.Exec(ending, unlockPassSQL); err != nil {
			_ = conn.Conn().Close(ending) // ends the session, and the lock with it
		}
		conn.Release()
	}
	var locked bool
	switch err := conn.QueryRow(ctx, lockPassSQL).Scan(&locked); {
	case err != nil:
		unlock() // it may be locked
		return nil, fmt.Errorf("wait for other passes: %w", err)
	case !locked:
		conn.Release()
		return nil, nil
	}
	return unlock, nil
}

// begin checks that the ledger may be gone on with by this key and sink.
func (r *Reporter) begin(ctx context.Context, scope Scope) (*pass, error) {
	g, err := r.generation(ctx)
	if err != nil {
		return nil, err
	}
	if err := g.restored(); err != nil {
		return nil, err
	}
	account, err := r.Stripe.Account(ctx)
	if err != nil {
		return nil, configured(err)
	}
	if err := r.checkMixed(ctx, account); err != nil {
		return nil, err
	}
	if err := r.dropUnsent(ctx, account); err != nil {
		return nil, err
	}
	parked, err := findings.Open(ctx, r.Pool, kindParked)
	if err != nil {
		return nil, err
	}
	p := &pass{Reporter: r, scope: scope, started: r.now(), gen: g, parked: parked, items: map[string]map[string]string{}}
	p.planner = planner{
		now: p.started, sink: r.Sink, account: account, livemode: r.Stripe.Livemode, byHand: scope.ByHand, item: p.item,
	}
	return p, nil
}

// configured says by which of our errors a call outside of a pass has failed.
func configured(err error) error {
	switch {
	case Judge(err, false) == Configuration:
		return fmt.Errorf("%w: %s: check --stripe-api-key", ErrKeyRefused, reason(err))
	case !answered(err):
		return fmt.Errorf("%w: %s", ErrUnreachable, reason(err))
	}
	return err
}

const mixedSQL = `
select r.sink, r.account, r.livemode, count(distinct r.tenant_id)
from overage_reports r
join billing_periods p using (tenant_id, period_start)
where p.settled_at is null
  and r.state in ('accepted', 'verified', 'sending', 'unknown')
  and (r.sink, r.account, r.livemode) <> ($1, $2, $3)
group by r.sink, r.account, r.livemode
limit 1`

// checkMixed refuses to tell a second sink, account or mode what open periods
// have told the first: it would be billed twice.
func (r *Reporter) checkMixed(ctx context.Context, account string) error {
	var sink, other string
	var livemode bool
	var tenants int
	err := r.Pool.QueryRow(ctx, mixedSQL, r.Sink, account, r.Stripe.Livemode).Scan(&sink, &other, &livemode, &tenants)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return fmt.Errorf("check what open periods were told: %w", err)
	}
	return fmt.Errorf("%w: for %d tenants by sink %s to account %q (livemode %t), but now it is sink %s, account %q (livemode %t): go on with the former until these periods are settled",
		ErrMixed, tenants, sink, other, livemode, r.Sink, account, r.Stripe.Livemode)
}

const dropUnsentSQL = `
update overage_reports
set state = 'rejected',
    detail = 'it was never sent, and is told otherwise now',
    decided_at = $4
where state = 'planned'
  and (sink, account, livemode) <> ($1, $2, $3)`

// dropUnsent takes back what was planned for another sink, account or mode. It
// must not go where it was not meant to.
func (r *Reporter) dropUnsent(ctx context.Context, account string) error {
	if _, err := r.Pool.Exec(ctx, dropUnsentSQL, r.Sink, account, r.Stripe.Livemode, r.now()); err != nil {
		return fmt.Errorf("take back what was planned otherwise: %w", err)
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
	return p.outcome(ctx, p.forgetLate(ctx))
}

const forgetLateSQL = `
update audit_findings
set resolved_at = $2,
    resolved_by = 'report',
    resolution = 'it was carried'
where kind = $1
  and resolved_at is null
  and found_at < $2::timestamptz - interval '7 days'`

// forgetLate resolves what was said about late usage when it is no news any more.
func (p *pass) forgetLate(ctx context.Context) error {
	if _, err := p.Pool.Exec(ctx, forgetLateSQL, kindLate, p.started); err != nil {
		return fmt.Errorf("resolve old findings %s: %w", kindLate, err)
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
