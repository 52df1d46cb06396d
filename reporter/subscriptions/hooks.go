package subscriptions

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
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
	receivedAt       time.Time
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

const nextHookSQL = `
select hook_id, type, coalesce(object_id, ''), livemode, received_at
from stripe_hooks
where done_at is null
  and (received_at, hook_id) > ($1, $2)
order by received_at, hook_id
limit 1
for update skip locked`

// nextHook claims the first waiting hook after a place for as long as the
// transaction lasts. Without one it returns pgx.ErrNoRows.
func nextHook(ctx context.Context, tx pgx.Tx, after hook) (h hook, err error) {
	err = tx.QueryRow(ctx, nextHookSQL, after.receivedAt, after.id).
		Scan(&h.id, &h.kind, &h.object, &h.livemode, &h.receivedAt)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return hook{}, fmt.Errorf("claim a hook: %w", err)
	}
	return h, err
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
	return nil
}
