package subscriptions

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"

	"odometer/audit/findings"
)

const (
	// maxWorkers is how many hooks are worked on at once in a process. Each
	// waits for Stripe most of the time, and needs two connections.
	maxWorkers = 4
	// maxFailures in a row without an answer end a round: Stripe or Postgres is
	// away.
	maxFailures = 5
)

// Work works off every stored hook that is due, the longest due first,
// until none is left, and returns how many it has done and the gravest error. A hook
// that fails waits, longer each time, and lets the others go on meanwhile; one
// that can never succeed is done, with its outcome said. Several processes
// share the hooks.
func (s *Sync) Work(ctx context.Context) (done int, err error) {
	var group sync.WaitGroup
	var result sync.Mutex
	workers := max(1, min(maxWorkers, int(s.pool.Config().MaxConns)/4))
	for range workers {
		group.Go(func() {
			n, failed := s.workAlone(ctx)
			result.Lock()
			defer result.Unlock()
			done += n
			err = graver(err, failed)
		})
	}
	group.Wait()
	return done, err
}

func (s *Sync) workAlone(ctx context.Context) (done int, gravest error) {
	for failures := 0; failures < maxFailures && ctx.Err() == nil; {
		over, err := s.workOne(ctx)
		if errors.Is(err, errNoHook) {
			return done, gravest
		}
		if err == nil {
			done++
			err = s.lookBehind(ctx, over, byHook)
		}
		gravest = graver(gravest, err)
		if isAway(err) {
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

// graver is the first of two errors, unless only the second says that somebody
// is away.
func graver(a, b error) error {
	if a == nil || !isAway(a) && isAway(b) {
		return b
	}
	return a
}

// workOne works off the hook that is due, or lets it wait if that fails. over
// is the subscription that it found ended, if it did.
func (s *Sync) workOne(ctx context.Context) (over *ended, err error) {
	var failed error
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		h, err := nextHook(ctx, tx)
		if err != nil {
			return err
		}
		var outcome string
		why := pgx.BeginFunc(ctx, tx, func(part pgx.Tx) (err error) {
			outcome, over, err = s.process(ctx, part, h)
			return err
		})
		if why == nil {
			return finishHook(ctx, tx, h, outcome)
		}
		failed = fmt.Errorf("hook %s (%s of %s): %w", h.id, h.kind, h.object, why)
		if ctx.Err() != nil { // our own end is no failure of the hook's
			return failed
		}
		return postponeHook(ctx, tx, h, why)
	})
	if err == nil {
		err = failed
	}
	return over, err
}

// process does what a hook asks for and says what came of it.
func (s *Sync) process(ctx context.Context, tx pgx.Tx, h hook) (outcome string, over *ended, err error) {
	switch {
	case h.kind == meterErrorReport || h.kind == meterNotFound:
		outcome, err = s.meterError(ctx, tx, h)
		return outcome, nil, err
	case h.object == "":
		return "it names no object", nil, nil
	case strings.HasPrefix(h.kind, subscriptionHooks):
		done, err := s.settle(ctx, tx, h.object, byHook)
		return done.outcome, done.over, err
	default:
		return s.invoice(ctx, tx, h)
	}
}

// invoice looks at the subscription of an invoice, which may have rolled over,
// and lets the customer's invoices be looked at.
func (s *Sync) invoice(ctx context.Context, tx pgx.Tx, h hook) (outcome string, over *ended, err error) {
	subscription, customer := h.object, ""
	switch {
	case h.kind == invoiceUpcoming && strings.HasPrefix(h.object, "cus_"):
		subscription, customer = "", h.object
	case h.kind != invoiceUpcoming:
		subscription, customer, err = s.fetchInvoice(ctx, h.object)
		if isGone(err) {
			return "Stripe has no such invoice", nil, nil
		}
		if err != nil {
			return "", nil, err
		}
	}
	outcome = "an invoice without a subscription"
	if subscription != "" {
		done, err := s.settle(ctx, tx, subscription, byHook)
		if err != nil {
			return "", nil, err
		}
		outcome, over = done.outcome, done.over
		customer = firstOf(customer, done.customer)
	}
	if customer == "" {
		return outcome, over, nil
	}
	if err := s.look(ctx, customer); err != nil {
		return "", nil, fmt.Errorf("look at invoices of %s: %w", customer, err)
	}
	return outcome, over, nil
}

// meterError keeps that Stripe dropped meter events, once for each report: what
// a later one says is news. A report holds samples only, so it is a reason to
// compare and not a list of what is missing.
func (s *Sync) meterError(ctx context.Context, tx pgx.Tx, h hook) (outcome string, err error) {
	detail := "Stripe could not count some meter events of meter " + firstOf(h.object, "(not named)")
	if h.kind == meterNotFound {
		detail = "Stripe has no meter for some meter events"
	}
	err = findings.Record(ctx, tx, findings.Finding{
		Kind: KindMeterError, Subject: h.id, FoundBy: byHook,
		Detail: detail + ": samples are in Stripe's dashboard and at /v2/core/events/" + h.id +
			"; what is missing is found by: odometer jobs run verify",
	})
	if err != nil {
		return "", err
	}
	if err := s.look(ctx, ""); err != nil {
		return "", fmt.Errorf("look at what Stripe has counted: %w", err)
	}
	return "finding " + KindMeterError, nil
}
