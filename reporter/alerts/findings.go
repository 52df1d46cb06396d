package alerts

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"odometer/audit/findings"
)

// Kinds of what operators are told of. Drift is found by the audit and told as
// it is.
const (
	kindReportFailures  = "report_failures"
	kindJobStale        = "job_stale"
	kindReconcileErrors = "reconcile_errors"
	kindTenantVolume    = "tenant_volume"
)

const (
	failureWindow  = 15 * time.Minute
	failurePercent = 5
	staleAfter     = 25 * time.Hour
	errorsWindow   = 24 * time.Hour
	errorsAllowed  = 10
)

// A link of the ledger counts once, by how its newest attempt ended. There is
// no least number of attempts: the breaker stops a report after five failures,
// so that a Stripe that is down may show no more than these.
const reportFailuresSQL = `
select count(*), count(*) filter (where state in ('unknown', 'rejected'))
from overage_reports
where last_attempt_at >= $1`

func (a *Alerts) reportFailures(ctx context.Context, now time.Time) (int, error) {
	var attempts, failed int64
	err := a.Pool.QueryRow(ctx, reportFailuresSQL, now.Add(-failureWindow)).Scan(&attempts, &failed)
	if err != nil {
		return 0, fmt.Errorf("count reports that failed: %w", err)
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
		name, known := job, a.Known(job)
		if known != job {
			name += ", a part of " + known + ","
		}
		wrong = append(wrong, findings.Finding{
			Subject: job,
			Detail:  fmt.Sprintf("job %s has not succeeded for 25 hours (%s); run: odometer jobs run %s", name, since, known),
		})
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("look for jobs that do not succeed: %w", err)
	}
	return a.record(ctx, kindJobStale, wrong)
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
			Subject: "books", Before: &found,
			Detail: fmt.Sprintf("%d counters could not be reconciled within a day; run: odometer audit", found),
		})
	}
	return a.record(ctx, kindReconcileErrors, wrong)
}

const openSubjectsSQL = `
select subject
from audit_findings
where kind = $1
  and resolved_at is null`

// record makes what is wrong now the open findings of the kind: new ones are
// written down, those that are over resolved.
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
