package alerts

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"odometer/audit/findings"
)

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

const openSubjectsSQL = `
select subject
from audit_findings
where kind = $1
  and resolved_at is null`

// record makes what is wrong now the open findings of the kind: it records new
// ones and resolves those that are over.
func (a *Alerts) record(ctx context.Context, kind string, wrong []findings.Finding) (int, error) {
	rows, _ := a.Pool.Query(ctx, openSubjectsSQL, kind)
	open, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return 0, fmt.Errorf("list open findings %s: %w", kind, err)
	}
	for _, f := range wrong {
		f.Kind, f.FoundBy = kind, foundBy
		if err := findings.Record(ctx, a.Pool, f); err != nil {
			return 0, err
		}
	}
	for _, subject := range open {
		still := slices.ContainsFunc(wrong, func(f findings.Finding) bool { return f.Subject == subject })
		if still {
			continue
		}
		if err := findings.Resolve(ctx, a.Pool, kind, subject, foundBy, "it is over"); err != nil {
			return 0, err
		}
	}
	return len(wrong), nil
}
