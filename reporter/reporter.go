// Package reporter makes invoices follow from counters: it closes billing
// periods that have ended, and reports each unit of overage to Stripe exactly
// once.
//
// # Why nothing is reported twice and nothing is lost
//
// The ledger, table overage_reports, is the chain of totals that were reported to
// Stripe for a tenant, agent and period (ledger.go). An entry is committed before
// the first call, with everything that is sent frozen in it, and a customer and
// meter has at most one undecided entry. So whatever happens to a call, the entry
// says what Stripe may have applied:
//
//	crash before the entry is inserted   nothing was sent; the next pass plans it again
//	crash after that, before "sending"   nothing was sent; the next pass sends it
//	crash after "sending"                unknown: sent again under the same identifier,
//	                                     which Stripe refuses to count twice for 24 h
//	answer lost, 5xx, unreadable         unknown, the same
//	unknown for 23 h                     decided by what Stripe's own summary says
//	crash before the answer is stored    unknown: Stripe says that it has it already
//
// A rejected entry is parked and reported to people; what is unknown is never
// treated as failed. A final invoice is believed over the ledger: the difference
// is carried into the running period, as an entry of its own.
//
// # Why a closed period never changes
//
// Closing writes counts, limits, prices and overage into period_totals under
// the lock of the tenant's partition, together with the position up to which
// events belong to the period (close.go). Reports use these numbers afterwards.
//
// # Why a restored backup does not bill again
//
// Each pass that sends raises the ledger's generation and its mirror in NATS
// first (generation.go). A ledger behind its mirror has forgotten sends: the
// reporter stops until Verify has compared it with Stripe (restore.go).
//
// # Where to read
//
// A pass runs through preflight.go, pass.go, pass_tenants.go, plan.go, send.go and
// retry.go. What an answer of Stripe means is in transport.go.
package reporter

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/time/rate"
)

// Errors that stop a pass before it has changed anything.
var (
	// ErrKeyRefused means that Stripe does not accept the API key (401, 403),
	// or that a meter is archived: somebody has to change the configuration.
	ErrKeyRefused = errors.New("refused by Stripe")

	// ErrUnreachable means that no call got any HTTP answer.
	ErrUnreachable = errors.New("Stripe does not answer")

	// ErrRestored means that the ledger is behind its mirror: a backup was restored.
	ErrRestored = errors.New("the ledger is behind what was sent")

	// ErrMixed means that open periods were reported by another sink, or to
	// another account or mode.
	ErrMixed = errors.New("open periods were reported to another destination")
)

// Sink is the way in which usage is reported to Stripe.
type Sink string

const (
	MeterEvents  Sink = "meter_events"  // deltas to a meter that sums raw values
	UsageRecords Sink = "usage_records" // totals set on legacy metered items
	DryRun       Sink = "dry_run"       // shows what it would report, sends nothing
)

// maxConcurrentCalls bounds the calls that are in progress at once.
const maxConcurrentCalls = 32

// Options configure a Reporter.
type Options struct {
	Pool   *pgxpool.Pool
	Stripe *Stripe             // nil with the sink DryRun
	NATS   jetstream.JetStream // keeps the mirror of the generation; nil with DryRun
	Sink   Sink
	Now    func() time.Time // nil: time.Now

	BreakerCooldown time.Duration // how long the breaker stays open; 0: 15 min
	Log             *slog.Logger
	Metrics         *Metrics // nil: none
}

// Reporter reports overage to Stripe. It is safe for concurrent use, also by
// several processes: passes take turns.
type Reporter struct {
	Options
	sendBreaker   *breaker      // of calls that send
	readBreaker   *breaker      // of calls that read: sending may work while reading does not
	sendLimit     *rate.Limiter // of calls that send; lower for a while after a 429
	fullSendLimit rate.Limit    // the value to which sendLimit returns
	readLimit     *rate.Limiter // of calls that read

	// crash lets a test end the work on an entry at a named step, as a crash
	// of the process would.
	crash func(step string, e *LedgerEntry) bool
}

// New makes a reporter. It makes no call.
func New(o Options) (*Reporter, error) {
	if o.Sink != DryRun && (o.Stripe == nil || o.NATS == nil) {
		return nil, fmt.Errorf("sink %s needs Stripe and NATS", o.Sink)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.BreakerCooldown == 0 {
		o.BreakerCooldown = 15 * time.Minute
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	r := &Reporter{Options: o}
	r.sendBreaker = newBreaker(o.BreakerCooldown, o.Now, o.Metrics)
	r.readBreaker = newBreaker(o.BreakerCooldown, o.Now, NewMetrics(nil))
	if o.Stripe != nil {
		r.sendLimit, r.readLimit = o.Stripe.limits()
		r.fullSendLimit = r.sendLimit.Limit()
	}
	return r, nil
}

// now is the current time in the precision of Postgres.
func (r *Reporter) now() time.Time { return r.Now().UTC().Truncate(time.Microsecond) }

// crashes reports whether a test wants the process to end at this step.
func (r *Reporter) crashes(step string, e *LedgerEntry) bool {
	return r.crash != nil && r.crash(step, e)
}
