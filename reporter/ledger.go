package reporter

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// State is how far a ledger entry has come: column state of overage_reports.
type State string

const (
	Planned    State = "planned"    // stored, never sent
	Sending    State = "sending"    // a call is in progress, or the process died during it
	Accepted   State = "accepted"   // Stripe has it
	Verified   State = "verified"   // Stripe's summary or invoice shows it
	Unknown    State = "unknown"    // Stripe may have it
	Rejected   State = "rejected"   // Stripe does not have it: parked
	Unbillable State = "unbillable" // no invoice is left that could take it
)

// undecided reports whether it is open if Stripe has the entry, or will get it.
func (s State) undecided() bool { return s == Planned || s == Sending || s == Unknown }

// isAccepted reports whether the entry's total stands, so that the next entry
// of the chain starts from it.
func (s State) isAccepted() bool { return s == Accepted || s == Verified }

// Where the total of an entry comes from: column origin.
const (
	OriginReported = "reported" // we sent it
	OriginFound    = "found"    // Stripe's summary had more than the ledger
	OriginInvoiced = "invoiced" // the final invoice bills it; Stripe's meter does not show it
)

// MeterTarget is the place at Stripe to which usage is reported.
type MeterTarget struct {
	Account  string
	Livemode bool
	Customer string
	Meter    string // event name, or subscription item with UsageRecords
}

// LedgerEntry is a row of overage_reports: Stripe's total for a tenant, agent
// and period goes From one figure To another, in units.
type LedgerEntry struct {
	Tenant   uuid.UUID
	Agent    string
	Period   time.Time // start of the period in which the overage arose
	Billed   time.Time // start of the period whose invoice takes it
	Revision int       // number within tenant, agent and period
	From, To int64
	Value    int64 // what is sent: the difference, or with UsageRecords the item's new total
	Origin   string
	Sink     Sink
	MeterTarget
	ReportedAt time.Time // the timestamp that is sent
	Identifier string
	Generation int64

	State        State
	Attempts     int
	FirstAttempt *time.Time // nil while Stripe cannot have it
	LastAttempt  *time.Time
	RetryAt      *time.Time
	AbsentSince  *time.Time // since when Stripe's summary has not shown it
	Decided      *time.Time
	Detail       string
}

// Delta is the difference that the entry makes, in units.
func (e *LedgerEntry) Delta() int64 { return e.To - e.From }

// shownByMeter reports whether Stripe's meter contains the entry.
func (e *LedgerEntry) shownByMeter() bool { return e.State.isAccepted() && e.Origin != OriginInvoiced }

// setIdentifier computes the entry's identifier: 43 characters of a hash over
// all fields that make the entry unique. A revision is never used twice and
// every pass raises the generation, so neither a rejected entry nor a restored
// backup can produce an identifier that was used before.
func (e *LedgerEntry) setIdentifier() {
	h := sha256.New()
	number := func(n int64) { h.Write(binary.BigEndian.AppendUint64(nil, uint64(n))) }
	for _, s := range []string{string(e.Sink), e.Tenant.String(), e.Agent} {
		number(int64(len(s)))
		h.Write([]byte(s))
	}
	for _, n := range []int64{e.Period.UnixMicro(), int64(e.Revision), e.From, e.To, e.Generation} {
		number(n)
	}
	e.Identifier = "odo_" + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// matchesIdentifier reports whether nobody has edited the entry since its
// identifier was computed.
func (e *LedgerEntry) matchesIdentifier() bool {
	copied := *e
	copied.setIdentifier()
	return copied.Identifier == e.Identifier
}

// Limits of what is sent, by Stripe's rules.
const (
	// maxValue is the largest quantity of one entry: Stripe aggregates in double
	// precision and rejects more than 15 digits.
	maxValue = 999_999_999_999_999

	// edgeMargin keeps timestamps away from both ends of a period, so that
	// summary windows of whole minutes contain exactly the period's usage.
	edgeMargin = time.Minute

	// resendFor is how long an identifier may be sent again: Stripe remembers
	// it for at least 24 h.
	resendFor = 23 * time.Hour

	// absentFor is how long a summary must stay without an entry before the
	// entry counts as lost: summaries lag.
	absentFor = 24 * time.Hour

	// draftFor is how long an ended period takes usage when its invoice is not
	// known: the longest grace that Stripe lets an account choose.
	draftFor = 72 * time.Hour

	// SummaryDelay is how long Stripe's summaries may take to show an entry.
	SummaryDelay = time.Hour

	// parkedFor is how long scheduled passes leave a rejected entry alone.
	parkedFor = 24 * time.Hour
)

// backoff is the pause of an entry after its n-th attempt.
func backoff(attempts int) time.Duration {
	steps := []time.Duration{time.Minute, 2 * time.Minute, 5 * time.Minute, 15 * time.Minute, 30 * time.Minute}
	return steps[min(max(attempts, 1), len(steps))-1]
}

// querier is a pool or a transaction.
type querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

const entryColumns = `
    r.tenant_id, r.agent, r.period_start, r.billed_period_start, r.revision, r.from_total, r.to_total, r.value,
    r.origin, r.sink, r.account, r.livemode, r.stripe_customer, r.meter, r.reported_at, r.identifier, r.generation,
    r.state, r.attempts, r.first_attempt_at, r.last_attempt_at, r.retry_at, r.absent_since, r.decided_at,
    coalesce(r.detail, '')`

func scanEntry(row pgx.CollectableRow) (*LedgerEntry, error) {
	e := &LedgerEntry{}
	err := row.Scan(&e.Tenant, &e.Agent, &e.Period, &e.Billed, &e.Revision, &e.From, &e.To, &e.Value,
		&e.Origin, &e.Sink, &e.Account, &e.Livemode, &e.Customer, &e.Meter, &e.ReportedAt, &e.Identifier, &e.Generation,
		&e.State, &e.Attempts, &e.FirstAttempt, &e.LastAttempt, &e.RetryAt, &e.AbsentSince, &e.Decided, &e.Detail)
	return e, err
}

// An entry that was billed in an unsettled period is loaded too when it arose
// in a settled one.
const loadEntriesSQL = `
select` + entryColumns + `
from overage_reports r
join unnest($1::uuid[], $2::timestamptz[]) as o (tenant_id, since) using (tenant_id)
where r.period_start >= o.since
   or r.billed_period_start >= o.since
order by r.tenant_id, r.period_start, r.agent, r.revision`

func loadEntries(ctx context.Context, tx pgx.Tx, accounts []*tenantAccount) error {
	ids := make([]uuid.UUID, len(accounts))
	since := make([]time.Time, len(accounts))
	byTenant := make(map[uuid.UUID]*tenantAccount, len(accounts))
	for i, a := range accounts {
		ids[i], since[i] = a.tenant, a.periods[0].start
		byTenant[a.tenant] = a
	}
	rows, _ := tx.Query(ctx, loadEntriesSQL, ids, since)
	entries, err := pgx.CollectRows(rows, scanEntry)
	if err != nil {
		return fmt.Errorf("load the ledger of %d tenants: %w", len(accounts), err)
	}
	for _, e := range entries {
		account := byTenant[e.Tenant]
		account.entries = append(account.entries, e)
	}
	return nil
}

// An entry whose target has an undecided one is not inserted: it is planned
// again when that one is decided.
const insertEntrySQL = `
insert into overage_reports (
    tenant_id, agent, period_start, billed_period_start, revision, from_total, to_total, value,
    origin, sink, account, livemode, stripe_customer, meter, reported_at, identifier, generation,
    state, decided_at, detail
)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, nullif($20, ''))
on conflict (account, livemode, stripe_customer, meter) where state in ('planned', 'sending', 'unknown') do nothing`

// insertEntries inserts entries in one transaction and returns those that were
// inserted.
func insertEntries(ctx context.Context, q querier, entries []*LedgerEntry) (inserted []*LedgerEntry, err error) {
	if len(entries) == 0 {
		return nil, nil
	}
	var batch pgx.Batch
	for _, e := range entries {
		e.setIdentifier()
		batch.Queue(insertEntrySQL, e.Tenant, e.Agent, e.Period, e.Billed, e.Revision, e.From, e.To, e.Value,
			e.Origin, e.Sink, e.Account, e.Livemode, e.Customer, e.Meter, e.ReportedAt, e.Identifier, e.Generation,
			e.State, e.Decided, e.Detail,
		).Exec(func(tag pgconn.CommandTag) error {
			if tag.RowsAffected() == 1 {
				inserted = append(inserted, e)
			}
			return nil
		})
	}
	if err := q.SendBatch(ctx, &batch).Close(); err != nil {
		return nil, fmt.Errorf("insert %d ledger entries: %w", len(entries), err)
	}
	return inserted, nil
}

// errDecidedElsewhere says that another process has changed the entry since it
// was read.
var errDecidedElsewhere = errors.New("another process has decided the ledger entry")

// ignoreDecidedElsewhere returns nil for errDecidedElsewhere: nothing is left
// to do for that entry.
func ignoreDecidedElsewhere(err error) error {
	if errors.Is(err, errDecidedElsewhere) {
		return nil
	}
	return err
}

// updateEntry runs an update of one entry. It returns errDecidedElsewhere when
// the entry is no longer in a state that the update expects.
func updateEntry(ctx context.Context, q querier, sql string, e *LedgerEntry, args ...any) error {
	tag, err := q.Exec(ctx, sql, append([]any{e.Identifier}, args...)...)
	switch {
	case err != nil:
		return fmt.Errorf("update ledger entry %s (%s): %w", e.Identifier, e.State, err)
	case tag.RowsAffected() == 0:
		return errDecidedElsewhere
	}
	return nil
}

const markSendingSQL = `
update overage_reports
set state = 'sending',
    attempts = attempts + 1,
    first_attempt_at = coalesce(first_attempt_at, $3),
    last_attempt_at = $3
where identifier = $1
  and state = $2`

// markSending commits that a call is about to be made.
func markSending(ctx context.Context, q querier, e *LedgerEntry, now time.Time) error {
	return updateEntry(ctx, q, markSendingSQL, e, e.State, now)
}

const undoSendingSQL = `
update overage_reports
set state = $2,
    attempts = $3,
    first_attempt_at = $4,
    last_attempt_at = $5
where identifier = $1
  and state = 'sending'
  and attempts = $3 + 1`

// undoSending undoes markSending after a call that certainly changed nothing.
func undoSending(ctx context.Context, q querier, before *LedgerEntry) error {
	return ignoreDecidedElsewhere(updateEntry(ctx, q, undoSendingSQL, before,
		before.State, before.Attempts, before.FirstAttempt, before.LastAttempt))
}

const storeDecisionSQL = `
update overage_reports
set state = $2,
    detail = nullif($3, ''),
    retry_at = $4,
    absent_since = $5,
    decided_at = $6
where identifier = $1
  and state in ('planned', 'sending', 'unknown')`

// storeDecision stores what became of an undecided entry: its State, Detail,
// RetryAt, AbsentSince and Decided.
func storeDecision(ctx context.Context, q querier, e *LedgerEntry) error {
	return updateEntry(ctx, q, storeDecisionSQL, e, e.State, e.Detail, e.RetryAt, e.AbsentSince, e.Decided)
}

const undecidedEntriesSQL = `
select` + entryColumns + `
from overage_reports r
where r.state in ('planned', 'sending', 'unknown')
  and ($1::uuid is null or r.tenant_id = $1)
  and (r.retry_at is null or r.retry_at <= $2)
  and (r.last_attempt_at is null or r.last_attempt_at < $3)
  and (r.attempts, r.identifier) > ($4, $5)
order by r.attempts, r.identifier
limit $6`

// undecidedEntries lists undecided entries that are due and were not attempted
// since the given time, fewest attempts first, starting behind the entry after.
func undecidedEntries(ctx context.Context, q querier, tenant *uuid.UUID, due, since time.Time, after *LedgerEntry, limit int) ([]*LedgerEntry, error) {
	attempts, identifier := -1, ""
	if after != nil {
		attempts, identifier = after.Attempts, after.Identifier
	}
	rows, _ := q.Query(ctx, undecidedEntriesSQL, tenant, due, since, attempts, identifier, limit)
	entries, err := pgx.CollectRows(rows, scanEntry)
	if err != nil {
		return nil, fmt.Errorf("list undecided ledger entries: %w", err)
	}
	return entries, nil
}
