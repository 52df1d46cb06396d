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
	asked := !r.Stripe.knowsAccount()
	account, err := r.account(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.takeOver(ctx, account); err != nil {
		return nil, err
	}
	parked, err := findings.Open(ctx, r.Pool, kindParked)
	if err != nil {
		return nil, err
	}
	p := &pass{Reporter: r, scope: scope, started: r.now(), gen: g, parked: parked, stays: map[string]bool{}, items: map[string]map[string]string{}}
	p.answered = asked // that call got an answer, whatever the others will
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
	return errors.New(reason(err))
}

const ledgerAccountSQL = `
select coalesce(account, '')
from ledger
where livemode = $1`

// account is the account that the key belongs to, or where Stripe does not say
// so, the one of this mode that the ledger knows.
func (r *Reporter) account(ctx context.Context) (string, error) {
	account, err := r.Stripe.Account(ctx)
	if err != nil {
		return "", configured(err)
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

const isSameSQL = `
select exists (
    select from ledger
    where sink = $1 and account = $2 and livemode = $3
)`

const adoptSQL = `
update overage_reports
set account = $1
where account = ''
  and livemode = $2`

const takeOverSQL = `
update ledger
set sink = $1,
    account = $2,
    livemode = $3`

// takeOver checks, when sink, account or mode are not those of the last pass,
// that the ledger may go on by them, and notes them.
func (r *Reporter) takeOver(ctx context.Context, account string) error {
	var same bool
	if err := r.Pool.QueryRow(ctx, isSameSQL, r.Sink, account, r.Stripe.Livemode).Scan(&same); err != nil || same {
		return err
	}
	if account != "" {
		// Told by a key that did not say whose it was.
		if _, err := r.Pool.Exec(ctx, adoptSQL, account, r.Stripe.Livemode); err != nil {
			return fmt.Errorf("note the account of what was told: %w", err)
		}
	}
	if err := r.checkMixed(ctx, account); err != nil {
		return err
	}
	if err := r.dropUnsent(ctx, account); err != nil {
		return err
	}
	if _, err := r.Pool.Exec(ctx, takeOverSQL, r.Sink, account, r.Stripe.Livemode); err != nil {
		return fmt.Errorf("note whom the ledger tells: %w", err)
	}
	return nil
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
