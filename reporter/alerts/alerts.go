// Package alerts reports what people should know before it costs them: to
// customers their usage at 80 and 100 % of a limit, to operators what is wrong
// with the reporting, the counters or the jobs.
//
// [Alerts.Evaluate] is level-triggered: whatever is at or above a threshold now
// is recorded, once per tenant, agent, period, threshold and limit. So nothing
// is missed while no service ran, and nothing is recorded twice. In the same
// transaction it inserts a River job that delivers what is recorded and not
// delivered to Slack, by [Alerts.Deliver]. A slow or failing Slack delays only
// the delivery, which River retries; the records stay, and the API shows the
// state itself. Without a webhook the findings are logged.
//
// A message is marked as delivered after Slack accepted it. A crash in between
// repeats it once, and so may two deliveries at the same moment.
package alerts

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"odometer"
	"odometer/audit/findings"
)

// foundBy names us in the findings that we record.
const foundBy = "alerts"

// Options say what to evaluate and where to deliver.
type Options struct {
	Pool     *pgxpool.Pool
	Now      func() time.Time // nil for time.Now
	Log      *slog.Logger     // nil for none
	SlackURL string           // the incoming webhook, a secret; "" to log the findings
	HTTP     *http.Client     // nil for one with a timeout of 10 s
}

// Alerts evaluates and delivers.
type Alerts struct {
	Options
	river  *river.Client[pgx.Tx] // inserts deliveries
	logged int64                 // the highest finding that was logged for want of a webhook
}

// New returns an Alerts for these options.
func New(o Options) (*Alerts, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	client := http.Client{Timeout: 10 * time.Second}
	if o.HTTP != nil {
		client = *o.HTTP
	}
	// A webhook does not redirect; following a redirect would send its secret elsewhere.
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	o.HTTP = &client
	inserts, err := river.NewClient(riverpgxv5.New(o.Pool), &river.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, fmt.Errorf("set up River for deliveries: %w", err)
	}
	return &Alerts{Options: o, river: inserts}, nil
}

// EvaluateResult counts what one evaluation found.
type EvaluateResult struct {
	Alerts   int // thresholds that customers have newly reached
	Exceeded int // limits with overage among them
	Findings int // open findings for operators
}

// Evaluate records the thresholds that are reached and what operators should
// know, and has River deliver it. An error in one part does not stop the others.
func (a *Alerts) Evaluate(ctx context.Context) (EvaluateResult, error) {
	var result EvaluateResult
	var errs []error
	now := a.Now()
	for _, find := range []finder{a.reportFailures, a.staleJobs, a.reconcileErrors} {
		n, err := find(ctx, now)
		result.Findings += n
		errs = append(errs, err)
	}
	errs = append(errs, pgx.BeginFunc(ctx, a.Pool, func(tx pgx.Tx) error {
		if err := a.thresholds(ctx, tx, now, &result); err != nil {
			return err
		}
		return a.queueDelivery(ctx, tx, now)
	}))
	if a.SlackURL == "" {
		errs = append(errs, a.logFindings(ctx, now))
	}
	return result, errors.Join(errs...)
}

// The counters of all periods that can still change are compared with their
// limit: the plan's while the period runs, the frozen one after its end. A null
// limit is none: that of a trial, an unlimited allowance, a tenant without a
// plan. What a plan does not include has limit 0; its first unit is overage, so
// only the last threshold applies.
//
// The arithmetic is numeric, because a limit may be as large as a bigint.
const thresholdsSQL = `
with limited as (
    select p.tenant_id, c.agent, p.period_start, c.count,
        case when l.agent is null then 0 else l."limit" end as "limit"
    from billing_periods p
    join subscriptions s on s.tenant_id = p.tenant_id
    join usage_counters c on c.tenant_id = p.tenant_id and c.period_start = p.period_start
    join agents a on a.agent = c.agent
    left join allowances l on l.plan_id = p.plan_id and l.agent = c.agent
    where p.frozen_at is null
      and p.period_start <= $1
      and p.plan_id is not null
      and not p.trial
      and not (s.status = 'trial' and (s.trial_ends_at is null or s.trial_ends_at > $1))
    union all
    select p.tenant_id, c.agent, p.period_start, c.count, f."limit"
    from billing_periods p
    join usage_counters c on c.tenant_id = p.tenant_id and c.period_start = p.period_start
    join period_allowances f
        on f.tenant_id = p.tenant_id and f.period_start = p.period_start and f.agent = c.agent
    where p.frozen_at is not null
      and p.status = 'open'
      and not p.trial
)
insert into usage_alerts (tenant_id, agent, period_start, threshold, "limit", level, count, raised_at)
select l.tenant_id, l.agent, l.period_start, t.threshold, l."limit", t.level, l.count, $1
from limited l
join unnest($2::integer[], $3::text[]) as t (threshold, level)
    on l.count::numeric * 100 >= l."limit"::numeric * t.threshold
where l.count > 0
  and (l."limit" > 0 or t.threshold = 100)
on conflict do nothing
returning tenant_id, agent, threshold, "limit", count`

// thresholds records the customers' alerts and logs the exceeded limits.
func (a *Alerts) thresholds(ctx context.Context, tx pgx.Tx, now time.Time, result *EvaluateResult) error {
	rows, _ := tx.Query(ctx, thresholdsSQL, now,
		[]int{odometer.WarningPercent, odometer.ErrorPercent},
		[]string{string(odometer.LevelWarning), string(odometer.LevelError)})
	var tenant uuid.UUID
	var agent string
	var threshold int
	var limit, count int64
	_, err := pgx.ForEachRow(rows, []any{&tenant, &agent, &threshold, &limit, &count}, func() error {
		result.Alerts++
		if over := odometer.Overage(count, &limit); threshold == odometer.ErrorPercent && over > 0 {
			result.Exceeded++
			a.Log.Warn("a limit is exceeded", "tenant", tenant, "agent", agent, "overage", over, "limit", limit)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("compare counters with their thresholds: %w", err)
	}
	return nil
}

// Kinds of the findings that an evaluation records. The audit records drift.
const (
	kindReportFailures  = "report_failures"
	kindJobStale        = "job_stale"
	kindReconcileErrors = "reconcile_errors"
)

const (
	failureWindow  = 15 * time.Minute
	failurePercent = 5
	staleAfter     = 25 * time.Hour
	errorsWindow   = 24 * time.Hour
	errorsAllowed  = 10
)

// A ledger entry counts once, by the outcome of its newest attempt. There is no
// minimum of attempts: the breaker stops a pass after five failures, so there may
// be no more than these when Stripe is down.
const reportFailuresSQL = `
select count(*), count(*) filter (where state in ('unknown', 'rejected'))
from overage_reports
where last_attempt_at >= $1`

func (a *Alerts) reportFailures(ctx context.Context, now time.Time) (int, error) {
	var attempts, failed int64
	err := a.Pool.QueryRow(ctx, reportFailuresSQL, now.Add(-failureWindow)).Scan(&attempts, &failed)
	if err != nil {
		return 0, fmt.Errorf("count failed reports: %w", err)
	}
	var wrong []findings.Finding
	if failed*100 > attempts*failurePercent {
		wrong = append(wrong, findings.Finding{
			Subject: "stripe", Before: &failed,
			Detail: fmt.Sprintf("%d of %d reports to Stripe failed in the last 15 minutes; run: odometer report", failed, attempts),
		})
	}
	return a.record(ctx, kindReportFailures, wrong)
}

const staleJobsSQL = `
select j.job, j.last_success_at, coalesce(j.last_error, '')
from jobs j
left join river_queue q on q.name = j.job
where coalesce(j.last_success_at, j.known_since) < $1
  and q.paused_at is null
order by j.job`

func (a *Alerts) staleJobs(ctx context.Context, now time.Time) (int, error) {
	rows, _ := a.Pool.Query(ctx, staleJobsSQL, now.Add(-staleAfter))
	var job, lastError string
	var success *time.Time
	var wrong []findings.Finding
	_, err := pgx.ForEachRow(rows, []any{&job, &success, &lastError}, func() error {
		since := "never succeeded"
		if success != nil {
			since = "last succeeded at " + success.UTC().Format(time.RFC3339)
		}
		if lastError != "" {
			since += ", then: " + lastError
		}
		wrong = append(wrong, findings.Finding{
			Subject: job,
			Detail:  fmt.Sprintf("job %s has not succeeded for 25 hours (%s); run: odometer jobs run %s", job, since, job),
		})
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("look for jobs that do not succeed: %w", err)
	}
	late, err := a.lateDelivery(ctx, now)
	if err != nil {
		return 0, err
	}
	return a.record(ctx, kindJobStale, append(wrong, late...))
}

const lateDeliverySQL = `
select
    (select count(*) from usage_alerts where delivered_at is null and attempts > 0 and raised_at > $1 and raised_at < $2)
    + (select count(*) from audit_findings where notified_at is null and attempts > 0 and found_at > $1 and found_at < $2)`

// lateDelivery finds records that Slack has refused for 25 hours.
func (a *Alerts) lateDelivery(ctx context.Context, now time.Time) ([]findings.Finding, error) {
	var late int64
	if a.SlackURL == "" {
		return nil, nil
	}
	if err := a.Pool.QueryRow(ctx, lateDeliverySQL, now.Add(-maxAge), now.Add(-staleAfter)).Scan(&late); err != nil {
		return nil, fmt.Errorf("count late deliveries: %w", err)
	}
	if late == 0 {
		return nil, nil
	}
	return []findings.Finding{{
		Subject: Queue, Before: &late,
		Detail: fmt.Sprintf("%d alerts and findings could not be delivered to Slack for 25 hours; check the webhook, then run: odometer jobs run alerts", late),
	}}, nil
}

const reconcileErrorsSQL = `
select count(*)
from audit_findings
where kind = 'reconcile_error'
  and (found_at >= $1 or resolved_at is null)`

func (a *Alerts) reconcileErrors(ctx context.Context, now time.Time) (int, error) {
	var found int64
	if err := a.Pool.QueryRow(ctx, reconcileErrorsSQL, now.Add(-errorsWindow)).Scan(&found); err != nil {
		return 0, fmt.Errorf("count errors of reconcile: %w", err)
	}
	var wrong []findings.Finding
	if found > errorsAllowed {
		wrong = append(wrong, findings.Finding{
			Subject: "counters", Before: &found,
			Detail: fmt.Sprintf("%d counters could not be reconciled within a day; run: odometer audit", found),
		})
	}
	return a.record(ctx, kindReconcileErrors, wrong)
}

// finder records what it finds wrong, resolves what is over, and returns how
// many of its findings are open.
type finder func(ctx context.Context, now time.Time) (int, error)

// record makes what is wrong now the open findings of the kind: it records new
// ones and resolves those that are over.
func (a *Alerts) record(ctx context.Context, kind string, wrong []findings.Finding) (int, error) {
	over, err := findings.Open(ctx, a.Pool, kind)
	if err != nil {
		return 0, err
	}
	for _, f := range wrong {
		delete(over, f.Subject)
		f.Kind, f.FoundBy = kind, foundBy
		if err := findings.Record(ctx, a.Pool, f); err != nil {
			return 0, err
		}
	}
	for subject := range over {
		if err := findings.Resolve(ctx, a.Pool, kind, subject, foundBy, "it is over"); err != nil {
			return 0, err
		}
	}
	return len(wrong), nil
}
