package reporter

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"time"

	"github.com/google/uuid"
)

// State is how far a link has come.
type State string

const (
	Planned    State = "planned"    // stored, never sent
	Sending    State = "sending"    // a call is under way, or died under way
	Taken      State = "accepted"   // Stripe has it
	Verified   State = "verified"   // Stripe's summary, or invoice, shows it
	Uncertain  State = "unknown"    // Stripe may have it
	Refused    State = "rejected"   // Stripe does not have it: parked
	Unbillable State = "unbillable" // there is no invoice left that could take it
)

// undecided reports whether Stripe may or may not have, or get, the link.
func (s State) undecided() bool { return s == Planned || s == Sending || s == Uncertain }

// counts reports whether the chain goes on from the link.
func (s State) counts() bool { return s == Taken || s == Verified }

// Where the figure of a link comes from.
const (
	told     = "told"     // we sent it
	found    = "found"    // Stripe's summary had it beyond the ledger
	invoiced = "invoiced" // the final invoice says so; Stripe's meter does not show it
)

// Target is where at Stripe usage is told.
type Target struct {
	Account  string
	Livemode bool
	Customer string
	Meter    string // event name, or subscription item with UsageRecords
}

// Link is a row of the ledger: Stripe's total for a tenant, agent and period
// goes From one figure To another, in units.
type Link struct {
	Tenant   uuid.UUID
	Agent    string
	Period   time.Time // start of the period in which the overage arose
	Billed   time.Time // start of the period whose invoice takes it
	Revision int       // number within tenant, agent and period
	From, To int64
	Value    int64 // what is sent: the difference, or with UsageRecords the item's new total
	Origin   string
	Sink     Sink
	Target
	ReportedAt time.Time // the timestamp that is sent
	Identifier string
	Generation int64

	State        State
	Attempts     int
	FirstAttempt *time.Time // nil while Stripe cannot have it
	LastAttempt  *time.Time
	RetryAt      *time.Time
	AbsentSince  *time.Time // since when Stripe's summary has been without it
	Decided      *time.Time
	Detail       string
}

// Delta is the difference that the link makes, in units.
func (l *Link) Delta() int64 { return l.To - l.From }

// metered reports whether Stripe's meter holds the link.
func (l *Link) metered() bool { return l.State.counts() && l.Origin != invoiced }

// identify gives a link its identifier: 43 characters of a hash over
// everything that makes it this link. The revision is never used again and the
// generation rises with every pass, so neither a refused link nor a restored
// backup can come upon an identifier that was used.
func (l *Link) identify() {
	h := sha256.New()
	write := func(s string) {
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(s)))
		h.Write(size[:])
		h.Write([]byte(s))
	}
	number := func(n int64) {
		var b [8]byte
		binary.BigEndian.PutUint64(b[:], uint64(n))
		h.Write(b[:])
	}
	write(string(l.Sink))
	write(l.Tenant.String())
	write(l.Agent)
	for _, n := range []int64{l.Period.UnixMicro(), int64(l.Revision), l.From, l.To, l.Generation} {
		number(n)
	}
	l.Identifier = "odo_" + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// genuine reports whether the link still says what it was made with.
func (l *Link) genuine() bool {
	copied := *l
	copied.identify()
	return copied.Identifier == l.Identifier
}

// Stripe's rules for what is sent.
const (
	// maxValue is the greatest quantity of one link: Stripe aggregates in
	// double precision and refuses more than 15 digits.
	maxValue = 999_999_999_999_999

	// edge keeps timestamps away from a period's ends, so that windows of
	// whole minutes hold exactly the period's usage.
	edge = time.Minute

	// resendFor is how long an identifier may be sent again: Stripe remembers
	// it for at least 24 h.
	resendFor = 23 * time.Hour

	// absentFor is how long a summary must stay without a report before the
	// report is taken for lost: summaries lag.
	absentFor = 24 * time.Hour

	// draftFor is how long an ended period takes usage when its invoice is not
	// known: the longest grace that Stripe lets an account choose.
	draftFor = 72 * time.Hour

	// SettleAfter is how long Stripe's summaries may take to show a report.
	SettleAfter = time.Hour
)

// backoff is how long a link rests after its n-th attempt.
func backoff(attempts int) time.Duration {
	steps := []time.Duration{time.Minute, 2 * time.Minute, 5 * time.Minute, 15 * time.Minute, 30 * time.Minute}
	return steps[min(max(attempts, 1), len(steps))-1]
}

// parkedFor is how long the scheduled passes leave a refused link alone.
const parkedFor = 24 * time.Hour
