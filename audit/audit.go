package audit

import (
	"context"
	"errors"
	"fmt"
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

	Drift func(counters int64) // told how many counters differ from their events; may be nil
	Log   *slog.Logger         // nil: none
}

// Scope narrows an audit.
type Scope struct {
	Tenant *uuid.UUID // nil: all
	Since  time.Time  // of the stream: only what it stored from then on; zero: all that it holds
}

// Progress says how far an audit has come.
type Progress struct {
	Step        string // what is being compared
	Done, Total int64  // messages; Total is 0 where there is nothing to count
}

// errCut means that the stream's history was cut while it was being compared.
var errCut = errors.New("the stream's history was cut while it was being compared")

// Run compares the five books and changes nothing. An error means that it did
// not come to an end; what differs is in the report.
func Run(ctx context.Context, o Options, scope Scope, progress func(Progress)) (*Report, error) {
	r, _, err := run(ctx, o, scope, progress)
	return r, err
}

func run(ctx context.Context, o Options, scope Scope, progress func(Progress)) (*Report, *auditor, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if progress == nil {
		progress = func(Progress) {}
	}
	js, err := jetstream.New(o.NATS)
	if err != nil {
		return nil, nil, err
	}
	for attempt := 1; ; attempt++ {
		a := &auditor{Options: o, Scope: scope, js: js, progress: progress, report: newReport(scope)}
		err := a.run(ctx)
		if errors.Is(err, errCut) && attempt < 3 {
			continue
		}
		return a.report, a, err
	}
}

// auditor is one audit.
type auditor struct {
	Options
	Scope
	js       jetstream.JetStream
	progress func(Progress)
	report   *Report
	at       *standing
	drifted  []drift // counters that differ, for Reconcile
}

func (a *auditor) run(ctx context.Context) error {
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

func (a *auditor) step(format string, args ...any) {
	a.progress(Progress{Step: fmt.Sprintf(format, args...)})
}
