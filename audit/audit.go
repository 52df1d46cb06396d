// Package audit proves that five data sets agree, and repairs counters where
// that is safe: the stream, the stored events, the counters, the overage ledger,
// and Stripe. It compares them pairwise:
//
//	stream and events      each message that was read is an event with the same
//	                       content, a duplicate of one, or a dead letter; each
//	                       event of the compared range has a message
//	                       (stream.go, match.go, stored_event.go)
//	events and counters    each counter is the sum of its events and of what
//	                       retention removed, in one snapshot; each event is in
//	                       the period it belongs to (counters.go, misplaced.go)
//	counters and ledger    what was reported of a settled period is its overage;
//	                       each entry continues the one before it
//	                       (ledger.go, ledger_chain.go)
//	ledger and Stripe      by customer and meter (ledger.go)
//
// # Why there is no false alarm while events are counted
//
// The comparison starts with the positions, read in one snapshot, and asks of
// each partition only about messages up to its position. What happened to those
// was committed before, so every later snapshot shows it. Each part of the
// stream is therefore compared in a short transaction of its own, and no long
// one keeps Postgres from vacuuming. The sums come from one statement, which
// sees one snapshot. When a new epoch began meanwhile, nothing is concluded and
// the audit starts again.
//
// # What cannot be known
//
// An event whose message has left the stream by age cannot be proven; an event
// of a tail that the stream lost has no message and never will. Both count as
// unknown, which is no difference. What Stripe is still adding up is unsettled,
// which is no difference either.
//
// # Why it is fast and its memory flat
//
// Messages are compared in chunks, several at a time. A chunk reads its events
// by their sequences through a BRIN index, that is, about the blocks that hold
// them, and asks by key only for the messages that are no event. Only the chunks
// under way are in memory.
//
// # What is repaired
//
// Reconcile sets counters from events, and only where stream and events agree:
// otherwise it would make a loss official. A closed period's truth is its frozen
// total. Every other difference names the command that repairs it, or says that
// no repair is defined.
package audit

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Options are what an audit works with.
type Options struct {
	Pool *pgxpool.Pool // at least 4 connections
	NATS *nats.Conn

	// Stripe compares the ledger with Stripe's summaries and calls each for
	// every customer's meter and period; nil when there is no Stripe key.
	Stripe func(ctx context.Context, tenant *uuid.UUID, each func(StripeCheck)) error

	Drift func(counters int64) // receives how many counters differ from their events; may be nil
	Log   *slog.Logger         // nil: none
}

// Scope narrows an audit.
type Scope struct {
	Tenant *uuid.UUID // nil: all
	Since  time.Time  // only messages that the stream stored from then on; zero: all that it holds
}

// Progress says how far an audit has come.
type Progress struct {
	Step        string // what is being compared
	Done, Total int64  // messages; Total is 0 where there is nothing to count
}

// errCut means that a new epoch began while the stream was being compared.
var errCut = errors.New("the stream's history was cut while it was being compared")

// Run compares the five data sets and changes none of them. An error means that
// it did not come to its end; what differs is in the report.
func Run(ctx context.Context, o Options, scope Scope, progress func(Progress)) (*Report, error) {
	a, err := run(ctx, o, scope, progress)
	return a.report, err
}

func run(ctx context.Context, o Options, scope Scope, progress func(Progress)) (*auditor, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if progress == nil {
		progress = func(Progress) {}
	}
	for attempt := 1; ; attempt++ {
		a := &auditor{options: o, scope: scope, progress: progress, report: newReport(scope)}
		err := a.run(ctx)
		if errors.Is(err, errCut) && attempt < 3 {
			continue
		}
		return a, err
	}
}

// auditor is one audit.
type auditor struct {
	options  Options
	scope    Scope
	progress func(Progress)
	report   *Report
	js       jetstream.JetStream
	at       *snapshot
	drifted  []counterKey // counters that differ, for Reconcile
}

func (a *auditor) run(ctx context.Context) (err error) {
	if a.js, err = jetstream.New(a.options.NATS); err != nil {
		return err
	}
	for _, compare := range []func(context.Context) error{
		a.compareStream, a.compareCounters, a.compareLedger, a.compareStripe,
	} {
		if err := compare(ctx); err != nil {
			return err
		}
	}
	a.report.finish()
	return nil
}

func (a *auditor) step(name string) { a.progress(Progress{Step: name}) }
