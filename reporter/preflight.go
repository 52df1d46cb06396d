package reporter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"odometer/audit/findings"
)

const lockPassSQL = `select pg_try_advisory_lock(hashtextextended('odometer overage pass', 0))`
const unlockPassSQL = `select pg_advisory_unlock(hashtextextended('odometer overage pass', 0))`

// lockRetry is how often a waiting pass checks whether the one before has
// ended.
const lockRetry = 100 * time.Millisecond

// lockPass waits until no other pass runs. The lock is held on a connection of
// its own, so it ends with the process. A waiting pass holds no connection:
// otherwise many of them could take all that the running one needs.
func (r *Reporter) lockPass(ctx context.Context) (release func(), err error) {
	for {
		release, err = r.tryLockPass(ctx)
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

// tryLockPass returns nil when another pass runs.
func (r *Reporter) tryLockPass(ctx context.Context) (release func(), err error) {
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
		unlock() // the lock may be held
		return nil, fmt.Errorf("wait for other passes: %w", err)
	case !locked:
		conn.Release()
		return nil, nil
	}
	return unlock, nil
}

// preflight checks that a pass may continue the ledger with this key and sink,
// and makes the pass.
func (r *Reporter) preflight(ctx context.Context, scope Scope) (*pass, error) {
	g, err := r.loadGeneration(ctx)
	if err != nil {
		return nil, err
	}
	if err := g.checkRestored(); err != nil {
		return nil, err
	}
	asked := !r.Stripe.accountKnown()
	account, err := r.account(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.checkDestination(ctx, account); err != nil {
		return nil, err
	}
	parked, err := findings.Open(ctx, r.Pool, kindParked)
	if err != nil {
		return nil, err
	}
	p := &pass{r: r, scope: scope, started: r.now(), generation: g, openParked: parked, stillParked: map[string]bool{}, items: map[string]map[string]string{}}
	p.answered = asked // Account got an answer, even if no other call does
	p.planner = planner{
		now: p.started, sink: r.Sink, account: account, livemode: r.Stripe.Livemode, byHand: scope.ByHand, item: p.item,
	}
	return p, nil
}

// classifyError turns the error of a call outside of a pass into ErrKeyRefused
// or ErrUnreachable where it is one.
func classifyError(err error) error {
	switch {
	case Classify(err, false) == OutcomeConfiguration:
		return fmt.Errorf("%w: %s: check --stripe-api-key", ErrKeyRefused, reason(err))
	case !answered(err):
		return fmt.Errorf("%w: %s", ErrUnreachable, reason(err))
	}
	return errors.New(reason(err))
}

const ledgerAccountSQL = `
select coalesce(account, '')
from ledger
where livemode = $1`

// account is the account that the key belongs to, or where Stripe does not say,
// the one that the ledger knows for this mode.
func (r *Reporter) account(ctx context.Context) (string, error) {
	account, err := r.Stripe.Account(ctx)
	if err != nil {
		return "", classifyError(err)
	}
	if account != "" {
		return account, nil
	}
	err = r.Pool.QueryRow(ctx, ledgerAccountSQL, r.Stripe.Livemode).Scan(&account)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return "", fmt.Errorf("look up the ledger's account: %w", err)
	}
	return account, nil
}

const sameDestinationSQL = `
select exists (
    select from ledger
    where sink = $1 and account = $2 and livemode = $3
)`

const adoptAccountSQL = `
update overage_reports
set account = $1
where account = ''
  and livemode = $2`

const setDestinationSQL = `
update ledger
set sink = $1,
    account = $2,
    livemode = $3`

// checkDestination checks, when sink, account or mode are not those of the last
// pass, that the ledger may continue with them, and stores them.
func (r *Reporter) checkDestination(ctx context.Context, account string) error {
	var same bool
	if err := r.Pool.QueryRow(ctx, sameDestinationSQL, r.Sink, account, r.Stripe.Livemode).Scan(&same); err != nil || same {
		return err
	}
	if account != "" {
		// These were sent with a key that did not say whose it was.
		if _, err := r.Pool.Exec(ctx, adoptAccountSQL, account, r.Stripe.Livemode); err != nil {
			return fmt.Errorf("store the account of reported entries: %w", err)
		}
	}
	if err := r.checkMixedDestinations(ctx, account); err != nil {
		return err
	}
	if err := r.rejectUnsent(ctx, account); err != nil {
		return err
	}
	if _, err := r.Pool.Exec(ctx, setDestinationSQL, r.Sink, account, r.Stripe.Livemode); err != nil {
		return fmt.Errorf("store the destination of the ledger: %w", err)
	}
	return nil
}

const mixedDestinationsSQL = `
select r.sink, r.account, r.livemode, count(distinct r.tenant_id)
from overage_reports r
join billing_periods p using (tenant_id, period_start)
where p.settled_at is null
  and r.state in ('accepted', 'verified', 'sending', 'unknown')
  and (r.sink, r.account, r.livemode) <> ($1, $2, $3)
group by r.sink, r.account, r.livemode
limit 1`

// checkMixedDestinations refuses to report to a second sink, account or mode
// what open periods have reported to the first: it would be billed twice.
func (r *Reporter) checkMixedDestinations(ctx context.Context, account string) error {
	var sink, other string
	var livemode bool
	var tenants int
	err := r.Pool.QueryRow(ctx, mixedDestinationsSQL, r.Sink, account, r.Stripe.Livemode).Scan(&sink, &other, &livemode, &tenants)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return fmt.Errorf("check where open periods were reported: %w", err)
	}
	return fmt.Errorf("%w: for %d tenants by sink %s to account %q (livemode %t), but now it is sink %s, account %q (livemode %t): continue with the former until these periods are settled",
		ErrMixed, tenants, sink, other, livemode, r.Sink, account, r.Stripe.Livemode)
}

const rejectUnsentSQL = `
update overage_reports
set state = 'rejected',
    detail = 'it was never sent, and is now reported to another destination',
    decided_at = $4
where state = 'planned'
  and (sink, account, livemode) <> ($1, $2, $3)`

// rejectUnsent rejects what was planned for another sink, account or mode, so
// that it is never sent to the wrong one.
func (r *Reporter) rejectUnsent(ctx context.Context, account string) error {
	if _, err := r.Pool.Exec(ctx, rejectUnsentSQL, r.Sink, account, r.Stripe.Livemode, r.now()); err != nil {
		return fmt.Errorf("reject entries planned for another destination: %w", err)
	}
	return nil
}
