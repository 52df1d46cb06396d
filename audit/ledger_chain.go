package audit

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"
)

// meterTarget is where at Stripe something was reported.
type meterTarget struct {
	account  string
	livemode bool
	customer string
	meter    string
}

// ledgerEntry is a row of the ledger.
type ledgerEntry struct {
	key        counterKey
	revision   int
	from, to   int64
	value      int64
	origin     string
	sink       string
	target     meterTarget
	identifier string
	generation int64
	state      string
}

// accepted reports whether the chain continues from the entry.
func (e *ledgerEntry) accepted() bool { return e.state == "accepted" || e.state == "verified" }

const entriesSQL = `
select
    tenant_id, agent, period_start, revision, from_total, to_total, value, origin, sink,
    account, livemode, stripe_customer, meter, identifier, generation, state
from overage_reports
where $1::uuid is null or tenant_id = $1
order by tenant_id, agent, period_start, revision`

// chain is what the entries of an agent's period say so far.
type chain struct {
	key      counterKey
	revision int
	totals   map[meterTarget]int64 // the last accepted total
}

// compareChains compares each entry with the one before it and with its own
// identifier, which is a hash over what makes it this entry.
func (a *auditor) compareChains(ctx context.Context, tx pgx.Tx) error {
	rows, _ := tx.Query(ctx, entriesSQL, a.scope.Tenant)
	var e ledgerEntry
	var c chain
	_, err := pgx.ForEachRow(rows, []any{
		&e.key.Tenant, &e.key.Agent, &e.key.Period, &e.revision, &e.from, &e.to, &e.value, &e.origin, &e.sink,
		&e.target.account, &e.target.livemode, &e.target.customer, &e.target.meter, &e.identifier, &e.generation, &e.state,
	}, func() error {
		e.key.Period = e.key.Period.UTC()
		if c.totals == nil || c.key != e.key {
			c = chain{key: e.key, totals: map[meterTarget]int64{}}
		}
		a.compareEntry(&c, &e)
		return nil
	})
	return err
}

// restoreLedger is what can be done about a ledger that was changed.
var restoreLedger = byHand("no repair is defined: what Stripe was told cannot be made up; restore overage_reports from a backup, then: odometer jobs run verify")

func (a *auditor) compareEntry(c *chain, e *ledgerEntry) {
	skipped := e.revision - c.revision - 1
	before := c.totals[e.target]
	c.revision = e.revision
	if e.accepted() {
		c.totals[e.target] = e.to
	}
	d := e.key.difference(LedgerLinkChanged)
	d.Where, d.Repair = fmt.Sprintf("revision %d, customer %s, meter %s", e.revision, e.target.customer, e.target.meter), restoreLedger
	switch {
	case e.identifier != e.identify():
		d.Expected, d.Found = "a row that is as its identifier says", fmt.Sprintf("from %d to %d, generation %d", e.from, e.to, e.generation)
		d.Cause = "the row was changed or written by hand"
	case e.origin == "reported" && e.sink == "meter_events" && e.value != e.to-e.from:
		d.Expected, d.Found = fmt.Sprintf("value %d", e.to-e.from), fmt.Sprintf("value %d", e.value)
		d.Cause = "the row was changed by hand"
	case e.from != before:
		d.Kind, d.Expected, d.Found = LedgerChainBroken, fmt.Sprintf("from %d, the last accepted total", before), fmt.Sprintf("from %d", e.from)
		d.Cause = "a row of the ledger was doubled or changed"
		if skipped > 0 {
			d.Cause = fmt.Sprintf("%d rows before it were deleted", skipped)
		}
	default:
		if skipped > 0 {
			a.report.addUnknown(countersLedger, int64(skipped), "revisions of the ledger without a row, where the totals connect: they counted for nothing, or were never stored")
		}
		a.report.addEqual(countersLedger, 1)
		return
	}
	a.report.addDifference(countersLedger, d)
}

// identify is the identifier of an entry with these figures, as package reporter
// makes it.
func (e *ledgerEntry) identify() string {
	h := sha256.New()
	field := func(s string) {
		_ = binary.Write(h, binary.BigEndian, uint64(len(s)))
		h.Write([]byte(s))
	}
	field(e.sink)
	field(e.key.Tenant.String())
	field(e.key.Agent)
	for _, n := range []int64{e.key.Period.UnixMicro(), int64(e.revision), e.from, e.to, e.generation} {
		_ = binary.Write(h, binary.BigEndian, uint64(n))
	}
	return "odo_" + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// mirrorBucket is where the reporter keeps, outside of Postgres, how many
// passes have sent something and what Stripe had accepted after the last one.
const mirrorBucket = "odometer_ledger"

// mirror is what the bucket holds for the ledger.
type mirror struct {
	Generation int64  `json:"generation"`
	Units      *int64 `json:"units"` // nil while a pass runs, or when one died
	revision   uint64 // of the bucket's key; 0: there is none
}

// ledger is what the database says about the ledger.
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
	if err := a.options.Pool.QueryRow(ctx, `select ledger_id from ledger`).Scan(&id); err != nil {
		return m, fmt.Errorf("read the ledger's id: %w", err)
	}
	entry, err := bucket.Get(ctx, id.String())
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return m, nil
	}
	if err != nil {
		return m, fmt.Errorf("read the mirror of ledger %s: %w", id, err)
	}
	m.revision = entry.Revision()
	if err := json.Unmarshal(entry.Value(), &m); err != nil {
		return m, fmt.Errorf("decode the mirror of ledger %s: %w", id, err)
	}
	return m, nil
}

// compareMirror finds a ledger that was restored from a backup, or has lost rows.
// It finds nothing when a pass has moved the mirror meanwhile.
func (a *auditor) compareMirror(ctx context.Context, before mirror, l ledger) error {
	now, err := a.loadMirror(ctx)
	if err != nil {
		return err
	}
	known := now.revision > 0
	if before.revision != now.revision || !known && !l.HasSent {
		return nil
	}
	d := Difference{Kind: LedgerDiffers, Where: "ledger " + l.ID.String(),
		Repair: command("jobs", "run", "verify").note(" (compares it with Stripe; until then nothing is sent)")}
	passes := fmt.Sprintf("%d passes that sent, as its mirror says", now.Generation)
	switch {
	case !known:
		d.Expected, d.Found = "a mirror in the NATS bucket "+mirrorBucket, "none"
		d.Cause = "NATS was created again, or the bucket was deleted"
	case l.Generation < now.Generation:
		d.Expected, d.Found = passes, fmt.Sprint(l.Generation)
		d.Cause = "an older copy of the database was restored: it lacks what was reported since"
	case l.Generation > now.Generation+1:
		d.Expected, d.Found = passes, fmt.Sprint(l.Generation)
		d.Cause = "an older copy of NATS was restored"
	case now.Units != nil && l.Generation == now.Generation && l.Units != *now.Units:
		d.Expected, d.Found = fmt.Sprintf("%d units accepted in all, as after the last pass", *now.Units), fmt.Sprint(l.Units)
		d.Cause = "rows of the ledger were deleted, doubled or changed since"
	default:
		return nil
	}
	a.report.addDifference(countersLedger, d)
	return nil
}
