package subscriptions

import (
	"context"
	"errors"
	"fmt"
	"strings"
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

// hook is what is kept of an event: what happened to which object.
type hook struct {
	id, kind, object string
	livemode         bool
	attempts         int // that have failed
}

func (h *hook) concernsUs() bool {
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

// store keeps a hook; first is false when it was there already.
func store(ctx context.Context, pool *pgxpool.Pool, h hook) (first bool, err error) {
	tag, err := pool.Exec(ctx, storeHookSQL, h.id, h.kind, h.object, h.livemode)
	if err != nil {
		return false, fmt.Errorf("store hook %s: %w", h.id, err)
	}
	return tag.RowsAffected() == 1, nil
}

// A hook is due when it was received, and after a failure when its wait is over.
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

// nextHook claims the hook that has been due for longest, for as long as the
// transaction lasts. Without one it returns errNoHook.
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

// stuckAfter is the failed attempt after which operators are told of a hook.
const stuckAfter = 5

// waits are how long a hook waits after each failed attempt; the last one is
// for all that follow.
var waits = []time.Duration{10 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 6 * time.Hour}

const postponeHookSQL = `
update stripe_hooks
set attempts = $2,
    retry_at = clock_timestamp() + $3::interval,
    outcome = $4
where hook_id = $1`

// postponeHook lets a hook that has failed wait for its next attempt.
func postponeHook(ctx context.Context, tx pgx.Tx, h hook, why error) error {
	h.attempts++
	outcome := oneLine(why.Error())
	wait := waits[min(h.attempts, len(waits))-1]
	if _, err := tx.Exec(ctx, postponeHookSQL, h.id, h.attempts, wait, outcome); err != nil {
		return fmt.Errorf("postpone hook %s: %w", h.id, err)
	}
	if h.attempts < stuckAfter {
		return nil
	}
	return findings.Record(ctx, tx, findings.Finding{
		Kind: KindHookStuck, Subject: h.id, FoundBy: byHook,
		Detail: fmt.Sprintf("Stripe's hook %s (%s of %s) has failed %d times, the last time with: %s; check the rights of the key in Stripe's dashboard, then nothing: it is tried again, every 6 hours at least",
			h.id, h.kind, firstOf(h.object, "no object"), h.attempts, outcome),
	})
}
