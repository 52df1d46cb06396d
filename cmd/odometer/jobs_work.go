package main

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"

	"odometer"
	"odometer/reporter"
)

// jobSettings are what the jobs need to be run by hand.
type jobSettings struct {
	databaseSettings
	natsSettings
	reportingSettings
	EventRetention days `help:"How long events are kept after they were stored." default:"90d" env:"ODOMETER_EVENT_RETENTION"`
}

// Jobs that read the stream, or keep the mirror of the ledger in NATS when they
// tell Stripe.
var (
	readingJobs = []string{"reconcile"}
	tellingJobs = []string{"report", "verify"}
)

// table is the jobs with what they do, and what to call when they are done
// with. NATS is asked for only by the one that needs it.
func (s *jobSettings) table(t *terminal, pool *pgxpool.Pool, name string) (jobs []job, done func(), err error) {
	if time.Duration(s.EventRetention) < odometer.MaxAge {
		return nil, nil, usagef("--event-retention %s: keys are remembered for 90 days by the events themselves: give at least 90d", s.EventRetention)
	}
	_, sink, err := s.account()
	if err != nil {
		return nil, nil, err
	}
	var nc *nats.Conn
	done = func() {}
	if slices.Contains(readingJobs, name) || sink != reporter.DryRun && slices.Contains(tellingJobs, name) {
		if nc, err = s.connect("jobs", false); err != nil {
			return nil, nil, err
		}
		done = nc.Close
	}
	r, err := s.reporting(t, pool, nc, time.Duration(s.EventRetention), nil)
	if err != nil {
		return nil, nil, err
	}
	return jobTable(r.works()), done, nil
}

// run is table for one run by hand.
func (s *jobSettings) run(ctx context.Context, t *terminal, pool *pgxpool.Pool, name, who string) error {
	jobs, done, err := s.table(t, pool, name)
	if err != nil {
		return err
	}
	defer done()
	return runJobOnce(ctx, pool, jobs, name, who)
}
