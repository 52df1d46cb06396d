package alerts

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/shopspring/decimal"

	"odometer"
)

// key names a record of either table.
type key struct {
	finding int64 // of audit_findings; 0 for a usage alert

	tenant    uuid.UUID
	agent     string
	start     time.Time
	threshold int
	limit     int64
}

// waitingAlert is a usage alert with what its text needs.
type waitingAlert struct {
	TenantID    uuid.UUID
	Agent       string
	PeriodStart time.Time
	Threshold   int
	Limit       int64
	Count       int64
	UnitPrice   decimal.Decimal
	Currency    string
}

// An alert that a higher one of the same limit has overtaken is told by it.
// The gravest come first: only so many are listed.
const waitingAlertsSQL = `
select u.tenant_id, u.agent, u.period_start, u.threshold, u."limit", u.count,
    coalesce(f.unit_price, a.unit_price, 0) as unit_price,
    coalesce((select currency from catalogue), 'usd') as currency
from usage_alerts u
left join agents a on a.agent = u.agent
left join period_allowances f
    on f.tenant_id = u.tenant_id and f.period_start = u.period_start and f.agent = u.agent
where u.delivered_at is null
  and u.raised_at > $1
  and (u.retry_at is null or u.retry_at <= $2)
  and not exists (
      select
      from usage_alerts higher
      where higher.tenant_id = u.tenant_id
        and higher.agent = u.agent
        and higher.period_start = u.period_start
        and higher."limit" = u."limit"
        and higher.threshold > u.threshold
  )
order by u.threshold desc, u.count - u."limit" desc, u.tenant_id, u.agent
limit $3`

const toldAlertsSQL = `
update usage_alerts u
set delivered_at = $1
from unnest($2::uuid[], $3::text[], $4::timestamptz[], $5::integer[], $6::bigint[])
    as t (tenant_id, agent, period_start, threshold, "limit")
where u.tenant_id = t.tenant_id
  and u.agent = t.agent
  and u.period_start = t.period_start
  and u.threshold <= t.threshold
  and u."limit" = t."limit"
  and u.delivered_at is null`

const failedAlertsSQL = `
update usage_alerts u
set attempts = u.attempts + 1,
    retry_at = coalesce($7, $1::timestamptz + least(2 ^ least(u.attempts + 1, 10), 15) * interval '1 minute')
from unnest($2::uuid[], $3::text[], $4::timestamptz[], $5::integer[], $6::bigint[])
    as t (tenant_id, agent, period_start, threshold, "limit")
where u.tenant_id = t.tenant_id
  and u.agent = t.agent
  and u.period_start = t.period_start
  and u.threshold = t.threshold
  and u."limit" = t."limit"`

func (a *Alerts) alertsBook() book {
	return book{
		heading: "Usage alerts",
		waiting: func(ctx context.Context, now time.Time) ([]line, error) {
			rows, _ := a.Pool.Query(ctx, waitingAlertsSQL, now.Add(-tooOld), now, linesPerPass)
			lines, err := pgx.CollectRows(rows, alertLine)
			if err != nil {
				return nil, fmt.Errorf("list alerts to tell: %w", err)
			}
			return lines, nil
		},
		told: func(ctx context.Context, now time.Time, lines []line) error {
			return a.markAlerts(ctx, toldAlertsSQL, now, lines)
		},
		failed: func(ctx context.Context, retryAt *time.Time, lines []line) error {
			return a.markAlerts(ctx, failedAlertsSQL, a.Now(), lines, retryAt)
		},
	}
}

// alertLine is a row of waitingAlertsSQL as it is told.
func alertLine(row pgx.CollectableRow) (line, error) {
	w, err := pgx.RowToStructByName[waitingAlert](row)
	if err != nil {
		return line{}, err
	}
	text := fmt.Sprintf("%s of tenant %s: %d%% used, %d of %d, in the period from %s", w.Agent, w.TenantID,
		odometer.Percentage(w.Count, &w.Limit), w.Count, w.Limit, w.PeriodStart.UTC().Format(time.DateOnly))
	if over := odometer.Overage(w.Count, &w.Limit); over > 0 {
		text += ", extra charges " + odometer.Money(odometer.CostCents(over, w.UnitPrice), w.Currency)
	}
	return line{
		key:   key{tenant: w.TenantID, agent: w.Agent, start: w.PeriodStart, threshold: w.Threshold, limit: w.Limit},
		text:  escaped(text),
		about: fmt.Sprintf("%s at %d%%", w.Agent, w.Threshold),
	}, nil
}

// markAlerts writes down what became of the alerts.
func (a *Alerts) markAlerts(ctx context.Context, sql string, now time.Time, lines []line, more ...any) error {
	n := len(lines)
	tenants, agents, starts := make([]uuid.UUID, n), make([]string, n), make([]time.Time, n)
	thresholds, limits := make([]int, n), make([]int64, n)
	for i, l := range lines {
		tenants[i], agents[i], starts[i], thresholds[i], limits[i] = l.key.tenant, l.key.agent, l.key.start, l.key.threshold, l.key.limit
	}
	args := append([]any{now, tenants, agents, starts, thresholds, limits}, more...)
	if _, err := a.Pool.Exec(ctx, sql, args...); err != nil {
		return fmt.Errorf("mark %d alerts: %w", n, err)
	}
	return nil
}

// waitingFinding is a finding with what its text needs.
type waitingFinding struct {
	FindingID  int64
	Kind       string
	Detail     string
	FoundAt    time.Time
	Resolution *string
}

// What was resolved meanwhile is told too: it has happened. What was recorded
// as resolved is no news, but for a counter that had drifted: its repair, in
// the transaction that records it, is what operators are to know.
const untoldSQL = `
    notified_at is null
  and found_at > $1
  and (resolved_at is null or resolved_at > found_at or kind = 'counter_drift')`

const waitingFindingsSQL = `
select finding_id, kind, detail, found_at, resolution
from audit_findings
where` + untoldSQL + `
  and (retry_at is null or retry_at <= $2)
order by resolved_at is not null, found_at, finding_id
limit $3`

const toldFindingsSQL = `
update audit_findings
set notified_at = $1
where finding_id = any($2)
  and notified_at is null`

const failedFindingsSQL = `
update audit_findings
set attempts = attempts + 1,
    retry_at = coalesce($3, $1::timestamptz + least(2 ^ least(attempts + 1, 10), 15) * interval '1 minute')
where finding_id = any($2)`

func (a *Alerts) findingsBook() book {
	return book{
		heading: "For operators",
		waiting: func(ctx context.Context, now time.Time) ([]line, error) {
			rows, _ := a.Pool.Query(ctx, waitingFindingsSQL, now.Add(-tooOld), now, linesPerPass)
			lines, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (line, error) { return findingLine(row, now) })
			if err != nil {
				return nil, fmt.Errorf("list findings to tell: %w", err)
			}
			return lines, nil
		},
		told: func(ctx context.Context, now time.Time, lines []line) error {
			return a.markFindings(ctx, toldFindingsSQL, now, lines)
		},
		failed: func(ctx context.Context, retryAt *time.Time, lines []line) error {
			return a.markFindings(ctx, failedFindingsSQL, a.Now(), lines, retryAt)
		},
	}
}

// findingLine is a row of waitingFindingsSQL as it is told.
func findingLine(row pgx.CollectableRow, now time.Time) (line, error) {
	w, err := pgx.RowToStructByName[waitingFinding](row)
	if err != nil {
		return line{}, err
	}
	text := fmt.Sprintf("%s: %s (found %s ago)", w.Kind, w.Detail, max(0, now.Sub(w.FoundAt)).Round(time.Minute))
	if w.Resolution != nil {
		text += "; resolved: " + *w.Resolution
	}
	return line{key: key{finding: w.FindingID}, text: escaped(text), about: escaped(w.Kind)}, nil
}

// markFindings writes down what became of the findings.
func (a *Alerts) markFindings(ctx context.Context, sql string, now time.Time, lines []line, more ...any) error {
	ids := make([]int64, len(lines))
	for i, l := range lines {
		ids[i] = l.key.finding
	}
	if _, err := a.Pool.Exec(ctx, sql, append([]any{now, ids}, more...)...); err != nil {
		return fmt.Errorf("mark %d findings: %w", len(ids), err)
	}
	return nil
}
