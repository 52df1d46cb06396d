package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"
)

// mirrorBucket is where the reporter keeps, outside of Postgres, how many
// passes have sent and how much Stripe had accepted after the last one.
const mirrorBucket = "odometer_ledger"

// mirror is what the bucket holds for the ledger.
type mirror struct {
	Generation int64  `json:"generation"`
	Units      *int64 `json:"units"` // nil while a pass runs, or when one died
	revision   uint64 // of the bucket's key; 0: there is none
}

// ledger is what the database says of itself.
type ledger struct {
	ID         uuid.UUID
	Generation int64
	HasSent    bool
	Units      int64
}

const ledgerSQL = `
select
    l.ledger_id,
    l.generation,
    exists (select from overage_reports where first_attempt_at is not null),
    (
        select coalesce(sum(to_total - from_total), 0)::bigint
        from overage_reports
        where state in ('accepted', 'verified')
          and origin <> 'invoiced'
    )
from ledger l`

func loadLedger(ctx context.Context, tx pgx.Tx) (l ledger, err error) {
	err = tx.QueryRow(ctx, ledgerSQL).Scan(&l.ID, &l.Generation, &l.HasSent, &l.Units)
	return l, err
}

func (a *auditor) loadMirror(ctx context.Context) (m mirror, err error) {
	bucket, err := a.js.KeyValue(ctx, mirrorBucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return m, nil
	}
	if err != nil {
		return m, fmt.Errorf("open the NATS bucket %s: %w", mirrorBucket, err)
	}
	var id uuid.UUID
	if err := a.Pool.QueryRow(ctx, `select ledger_id from ledger`).Scan(&id); err != nil {
		return m, fmt.Errorf("read the ledger's id: %w", err)
	}
	entry, err := bucket.Get(ctx, id.String())
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return m, nil
	}
	if err != nil {
		return m, fmt.Errorf("read the mirror of ledger %s: %w", id, err)
	}
	if err := json.Unmarshal(entry.Value(), &m); err != nil {
		return m, fmt.Errorf("read the mirror of ledger %s: %w", id, err)
	}
	m.revision = entry.Revision()
	return m, nil
}

// compareMirror finds a ledger that was restored from a backup, or has lost
// rows. It says nothing when a pass has moved the mirror meanwhile.
func (a *auditor) compareMirror(ctx context.Context, was mirror, has ledger) error {
	now, err := a.loadMirror(ctx)
	if err != nil {
		return err
	}
	known := now.revision > 0
	if was.revision != now.revision || !known && !has.HasSent {
		return nil
	}
	d := Difference{Kind: LedgerDiffers, Where: "ledger " + has.ID.String(), Repair: command("jobs", "run", "verify").note(" (compares it with Stripe; until then nothing is sent)")}
	switch {
	case !known:
		d.Expected, d.Found = "a mirror in the NATS bucket "+mirrorBucket, "none"
		d.Cause = "NATS was made anew, or the bucket was deleted"
	case has.Generation < now.Generation:
		d.Expected, d.Found = fmt.Sprintf("%d passes that sent, as its mirror says", now.Generation), fmt.Sprint(has.Generation)
		d.Cause = "an older copy of the database was restored: it has forgotten what was told since"
	case has.Generation > now.Generation+1:
		d.Expected, d.Found = fmt.Sprintf("%d passes that sent, as its mirror says", now.Generation), fmt.Sprint(has.Generation)
		d.Cause = "an older copy of NATS was restored"
	case now.Units != nil && has.Generation == now.Generation && has.Units != *now.Units:
		d.Expected, d.Found = fmt.Sprintf("%d units accepted in all, as after the last pass", *now.Units), fmt.Sprint(has.Units)
		d.Cause = "rows of the ledger were deleted, doubled or changed since"
	default:
		return nil
	}
	a.report.differs(countersLedger, d)
	return nil
}
