// Package alerts tells people what they should know before it costs them: a
// customer's usage at 80 and 100 % of a limit, and to operators what is wrong
// with the reporting, the books or the jobs.
//
// It works in two halves that meet in two tables. [Alerts.Look] finds by level,
// not by edge: whatever stands at or above a threshold now is recorded, once
// per tenant, agent, period, threshold and limit, so that nothing is missed
// while nobody looked and nothing is said twice. [Alerts.Deliver] tells Slack
// what was recorded and not told yet. A Slack that is slow, down or mistaken
// costs only delivery: the records stand, the API shows the state itself.
//
// Without a webhook operators are told by the log.
//
// A message is marked after Slack took it; a crash in between repeats it once.
// Look and Deliver may run at the same time, each by one process at a time.
package alerts

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// foundBy is who our findings say that found them.
const foundBy = "alerts"

// Options say where to look and whom to tell.
type Options struct {
	Pool     *pgxpool.Pool
	Now      func() time.Time // nil for time.Now
	Log      *slog.Logger     // nil for none
	SlackURL string           // the incoming webhook, a secret; "" to log the findings
	HTTP     *http.Client     // nil for one that waits 10 s

	// Known names the job that people know a part of it as, and can run; nil
	// for the part itself.
	Known func(job string) string
}

// Alerts looks and tells.
type Alerts struct {
	Options
	volume volume
	quiet  time.Time // Slack asked to be left alone until then
	logged int64     // the highest finding that the log was told instead of Slack
}

// New returns an Alerts; it does nothing until it is asked to.
func New(o Options) *Alerts {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Known == nil {
		o.Known = func(job string) string { return job }
	}
	client := http.Client{Timeout: 10 * time.Second}
	if o.HTTP != nil {
		client = *o.HTTP
	}
	// A webhook does not redirect; following one would carry its secret along.
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	o.HTTP = &client
	return &Alerts{Options: o}
}

// Looked is what a look recorded.
type Looked struct {
	Alerts   int // thresholds that customers have newly reached
	Exceeded int // of them, limits with overage
	Findings int // what is wrong now, for operators
}

// Look records what is at or above a threshold, and what operators should
// know. One part that fails does not keep the others from being looked at.
func (a *Alerts) Look(ctx context.Context) (Looked, error) {
	var looked Looked
	now := a.Now()
	errs := []error{a.thresholds(ctx, now, &looked)}
	for _, find := range []finder{a.reportFailures, a.staleJobs, a.reconcileErrors, a.tenantVolume} {
		n, err := find(ctx, now)
		looked.Findings += n
		errs = append(errs, err)
	}
	return looked, errors.Join(errs...)
}

// finder records what it finds wrong, resolves what is over, and says how much
// is wrong.
type finder func(ctx context.Context, now time.Time) (int, error)
