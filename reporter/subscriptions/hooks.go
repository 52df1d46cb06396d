package subscriptions

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer/audit/findings"
)

const (
	subscriptionHooks = "customer.subscription."
	invoiceCreated    = "invoice.created"
	invoiceFinalized  = "invoice.finalized"
	invoiceUpcoming   = "invoice.upcoming"
	meterErrorReport  = "v1.billing.meter.error_report_triggered"
	meterNotFound     = "v1.billing.meter.no_meter_found"
)

// hook is what is stored of an event: what happened to which object.
type hook struct {
	id, kind, object string
	livemode         bool
	attempts         int // that have failed
}

func (h *hook) isRelevant() bool {
	switch h.kind {
	case invoiceCreated, invoiceFinalized, invoiceUpcoming, meterErrorReport, meterNotFound:
		return true
	}
	return strings.HasPrefix(h.kind, subscriptionHooks)
}

const storeHookSQL = `
insert into stripe_hooks (hook_id, type, object_id, livemode)
values ($1, $2, nullif($3, ''), $4)
on conflict (hook_id) do nothing`

// storeHook stores a hook; first is false when it was stored before.
func storeHook(ctx context.Context, pool *pgxpool.Pool, h hook) (first bool, err error) {
	tag, err := pool.Exec(ctx, storeHookSQL, h.id, h.kind, h.object, h.livemode)
	if err != nil {
		return false, fmt.Errorf("store hook %s: %w", h.id, err)
	}
	return tag.RowsAffected() == 1, nil
}

// A hook is due when it was received, and after a failure when its pause is
// over.
const nextHookSQL = `
select hook_id, type, coalesce(object_id, ''), livemode, attempts
from stripe_hooks
where done_at is null
  and coalesce(retry_at, received_at) <= statement_timestamp()
order by coalesce(retry_at, received_at), hook_id
limit 1
for update skip locked`

// errNoHook says that none is due.
var errNoHook = errors.New("no hook is due")

// nextHook claims the hook that has been due longest, until the transaction
// ends. Without one it returns errNoHook.
func nextHook(ctx context.Context, tx pgx.Tx) (h hook, err error) {
	err = tx.QueryRow(ctx, nextHookSQL).Scan(&h.id, &h.kind, &h.object, &h.livemode, &h.attempts)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return hook{}, errNoHook
	case err != nil:
		return hook{}, fmt.Errorf("claim a hook: %w", err)
	}
	return h, nil
}

const finishHookSQL = `
update stripe_hooks
set done_at = now(),
    outcome = $2
where hook_id = $1`

func finishHook(ctx context.Context, tx pgx.Tx, h hook, outcome string) error {
	if _, err := tx.Exec(ctx, finishHookSQL, h.id, outcome); err != nil {
		return fmt.Errorf("finish hook %s: %w", h.id, err)
	}
	if h.attempts < stuckAfter {
		return nil
	}
	return findings.Resolve(ctx, tx, KindHookStuck, h.id, byHook, "it is done: "+outcome)
}

// stuckAfter is the number of failed attempts after which a hook is a finding.
const stuckAfter = 5

// retryPauses are the pauses after each failed attempt; the last one is for all
// that follow.
var retryPauses = []time.Duration{10 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 6 * time.Hour}

const postponeHookSQL = `
update stripe_hooks
set attempts = $2,
    retry_at = clock_timestamp() + $3::interval,
    outcome = $4
where hook_id = $1`

// postponeHook schedules the next attempt of a hook that has failed.
func postponeHook(ctx context.Context, tx pgx.Tx, h hook, why error) error {
	h.attempts++
	outcome := oneLine(why.Error())
	wait := retryPauses[min(h.attempts, len(retryPauses))-1]
	if _, err := tx.Exec(ctx, postponeHookSQL, h.id, h.attempts, wait, outcome); err != nil {
		return fmt.Errorf("postpone hook %s: %w", h.id, err)
	}
	if h.attempts < stuckAfter {
		return nil
	}
	return findings.Record(ctx, tx, findings.Finding{
		Kind: KindHookStuck, Subject: h.id, FoundBy: byHook,
		Detail: fmt.Sprintf("Stripe's hook %s (%s of %s) has failed %d times, the last time with: %s; check the rights of the key in Stripe's dashboard, then nothing: it is tried again, every 6 hours at least",
			h.id, h.kind, cmp.Or(h.object, "no object"), h.attempts, outcome),
	})
}

const (
	// maxWorkers is how many hooks a process works on at once. Each mostly
	// waits for Stripe, and needs two connections.
	maxWorkers = 4
	// maxFailures in a row without an answer end a round: Stripe or Postgres
	// is unavailable.
	maxFailures = 5
)

// Work processes every stored hook that is due, the longest due first, until
// none is left. It returns how many it has done and the gravest error. A hook
// that fails is postponed, longer each time, and does not delay others; one
// that can never succeed is done, with its outcome stored. Several processes
// share the hooks.
func (s *Sync) Work(ctx context.Context) (done int, err error) {
	var group sync.WaitGroup
	var result sync.Mutex
	workers := max(1, min(maxWorkers, int(s.Pool.Config().MaxConns)/4))
	for range workers {
		group.Go(func() {
			n, failed := s.workUntilEmpty(ctx)
			result.Lock()
			defer result.Unlock()
			done += n
			err = graverError(err, failed)
		})
	}
	group.Wait()
	return done, err
}

func (s *Sync) workUntilEmpty(ctx context.Context) (done int, gravest error) {
	for failures := 0; failures < maxFailures && ctx.Err() == nil; {
		ended, err := s.processNext(ctx)
		if errors.Is(err, errNoHook) {
			return done, gravest
		}
		if err == nil {
			done++
			err = s.syncOthersOf(ctx, ended, byHook)
		}
		gravest = graverError(gravest, err)
		if isUnavailable(err) {
			failures++
		} else {
			failures = 0
		}
	}
	if gravest == nil {
		gravest = ctx.Err()
	}
	return done, gravest
}

// graverError is the first of two errors, unless only the second says that
// Stripe or Postgres is unavailable.
func graverError(a, b error) error {
	if a == nil || !isUnavailable(a) && isUnavailable(b) {
		return b
	}
	return a
}

// processNext processes the hook that is due, or postpones it if that fails.
// ended is the subscription that it found ended, if any.
func (s *Sync) processNext(ctx context.Context) (ended *endedSubscription, err error) {
	var failed error
	err = pgx.BeginFunc(ctx, s.Pool, func(tx pgx.Tx) error {
		h, err := nextHook(ctx, tx)
		if err != nil {
			return err
		}
		var done syncResult
		why := pgx.BeginFunc(ctx, tx, func(part pgx.Tx) (err error) {
			done, err = s.processHook(ctx, part, h)
			return err
		})
		ended = done.ended
		if why == nil {
			return finishHook(ctx, tx, h, done.outcome)
		}
		failed = fmt.Errorf("hook %s (%s of %s): %w", h.id, h.kind, h.object, why)
		if ctx.Err() != nil { // a shutdown is no failure of the hook
			return failed
		}
		return postponeHook(ctx, tx, h, why)
	})
	if err == nil {
		err = failed
	}
	return ended, err
}

// processHook does what a hook asks for.
func (s *Sync) processHook(ctx context.Context, tx pgx.Tx, h hook) (syncResult, error) {
	switch {
	case h.kind == meterErrorReport || h.kind == meterNotFound:
		return s.recordMeterError(ctx, tx, h)
	case h.object == "":
		return syncResult{outcome: "it names no object"}, nil
	case strings.HasPrefix(h.kind, subscriptionHooks):
		return s.syncSubscription(ctx, tx, h.object, byHook)
	default:
		return s.processInvoice(ctx, tx, h)
	}
}

// processInvoice syncs the subscription of an invoice, which may have rolled
// over, and has the customer's invoices read again.
func (s *Sync) processInvoice(ctx context.Context, tx pgx.Tx, h hook) (done syncResult, err error) {
	subscription, customer := h.object, ""
	switch {
	case h.kind == invoiceUpcoming && strings.HasPrefix(h.object, "cus_"):
		subscription, customer = "", h.object
	case h.kind != invoiceUpcoming:
		subscription, customer, err = s.fetchInvoice(ctx, h.object)
		if isGone(err) {
			return syncResult{outcome: "Stripe has no such invoice"}, nil
		}
		if err != nil {
			return done, err
		}
	}
	done.outcome = "an invoice without a subscription"
	if subscription != "" {
		if done, err = s.syncSubscription(ctx, tx, subscription, byHook); err != nil {
			return done, err
		}
	}
	if customer = cmp.Or(customer, done.customer); customer == "" {
		return done, nil
	}
	if err := s.Recheck(ctx, customer); err != nil {
		return syncResult{}, fmt.Errorf("have invoices of %s read again: %w", customer, err)
	}
	return done, nil
}

// recordMeterError records that Stripe dropped meter events, once for each
// report: a later one may say something new. A report holds samples only, so it
// is a reason to compare and not a list of what is missing.
func (s *Sync) recordMeterError(ctx context.Context, tx pgx.Tx, h hook) (done syncResult, err error) {
	detail := "Stripe could not count some meter events of meter " + cmp.Or(h.object, "(not named)")
	if h.kind == meterNotFound {
		detail = "Stripe has no meter for some meter events"
	}
	err = findings.Record(ctx, tx, findings.Finding{
		Kind: KindMeterError, Subject: h.id, FoundBy: byHook,
		Detail: detail + ": samples are in Stripe's dashboard and at /v2/core/events/" + h.id +
			"; what is missing is found by: odometer jobs run verify",
	})
	if err != nil {
		return done, err
	}
	if err := s.Recheck(ctx, ""); err != nil {
		return done, fmt.Errorf("have all invoices read again: %w", err)
	}
	return syncResult{outcome: "finding " + KindMeterError}, nil
}
