// Package reporter makes invoices follow from counters: it closes periods that
// have ended, and tells Stripe each unit of overage exactly once.
//
// # Why nothing is told twice and nothing is lost
//
// The ledger, table overage_reports, is the chain of totals that Stripe was
// told for a tenant, agent and period. A link is committed before the first
// call, with everything that is sent frozen in it, and there is at most one
// undecided link for a customer and meter. So whatever happens to a call, the
// link says what may have been applied:
//
//	crash before the link is stored      nothing was sent; the next pass plans it anew
//	crash after it, before "sending"     nothing was sent; the next pass sends it
//	crash after "sending"                unknown: sent again under the same identifier,
//	                                     which Stripe refuses to count twice for 24 h
//	answer lost, 5xx, unreadable         unknown, the same
//	unknown for 23 h                     decided by what Stripe's own summary says
//	crash before the answer is stored    unknown: Stripe says that it has it already
//
// What is refused is parked and said; what is not known is never taken for
// failed. An invoice that is final is believed over the ledger: what it lacks
// or has too much is carried into the running period, as a link of its own.
//
// # Why a closed period never changes
//
// Closing writes counts, limits, prices and overage into period_totals under
// the lock of the tenant's partition, together with the position up to which
// events belong to the period. Telling works from these numbers afterwards.
//
// # Why a restored backup does not bill again
//
// Each pass that sends raises the ledger's generation and its mirror in NATS
// first. A ledger behind its mirror has forgotten sends: the reporter stops
// until Verify has compared it with Stripe.
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
	// ErrKeyRefused means that Stripe does not take the API key (401, 403), or
	// that a meter is archived: somebody has to change the configuration.
	ErrKeyRefused = errors.New("refused by Stripe")

	// ErrUnreachable means that no call got any HTTP answer.
	ErrUnreachable = errors.New("Stripe does not answer")

	// ErrRestored means that the ledger is behind its mirror: a backup was restored.
	ErrRestored = errors.New("the ledger is behind what was sent")

	// ErrMixed means that open periods were told by another sink, or to another
	// account or mode.
	ErrMixed = errors.New("open periods were told otherwise")
)

// Sink is how Stripe is told.
type Sink string

const (
	MeterEvents  Sink = "meter_events"  // deltas to a meter that sums raw values
	UsageRecords Sink = "usage_records" // totals set on legacy metered items
	DryRun       Sink = "dry_run"       // shows, tells nothing
)

// maxUnderWay bounds the calls that are under way at once.
const maxUnderWay = 32

// Options are what a Reporter works with.
type Options struct {
	Pool   *pgxpool.Pool
	Stripe *Stripe             // nil with the sink DryRun
	NATS   jetstream.JetStream // keeps the mirror of the generation; nil with DryRun
	Sink   Sink
	Now    func() time.Time // nil: time.Now

	BreakerCooldown time.Duration // how long an open breaker rests; 0: 15 min
	Log             *slog.Logger
	Metrics         *Metrics // nil: none
}

// Reporter tells Stripe the overage. Its methods may be called at the same
// time, also by several processes: passes take turns.
type Reporter struct {
	Options
	breaker *breaker      // of calls that tell
	asking  *breaker      // of calls that ask: a Stripe that cannot be asked can be told
	limit   *rate.Limiter // of calls that tell; slower for a while when Stripe asks for it
	full    rate.Limit    // what it comes back to
	reads   *rate.Limiter // of calls that ask

	// crash, in tests, ends the work on a link at a named step as the end of
	// the process would.
	crash func(step string, l *Link) bool
}

// New makes a reporter. It calls nobody.
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
	r.breaker = newBreaker(o.BreakerCooldown, o.Metrics)
	r.asking = newBreaker(o.BreakerCooldown, NewMetrics(nil))
	if o.Stripe != nil {
		r.limit, r.reads = o.Stripe.limits()
		r.full = r.limit.Limit()
	}
	return r, nil
}

// now is the reporter's time, as Postgres keeps it.
func (r *Reporter) now() time.Time { return r.Now().UTC().Truncate(time.Microsecond) }

// crashes asks the test, if any, whether the process is to end here.
func (r *Reporter) crashes(step string, l *Link) bool { return r.crash != nil && r.crash(step, l) }
