package alerts

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
	"github.com/shopspring/decimal"

	"odometer"
)

const (
	// Queue is the River queue of the deliveries.
	Queue = "alerts_delivery"

	// maxAge is how long a record is news. A Slack that is set up or comes back
	// later gets no older ones.
	maxAge = 7 * 24 * time.Hour

	maxLines   = 100    // what is beyond them in a message is summed up
	maxNotices = 10_000 // read at once, to bound the memory
)

// deliveryArgs have River deliver all that is not delivered yet.
type deliveryArgs struct{}

// Kind is River's name for a delivery.
func (deliveryArgs) Kind() string { return "alerts_delivery" }

// worker delivers when River says so.
type worker struct {
	river.WorkerDefaults[deliveryArgs]
	alerts *Alerts
}

// AddWorker has River's workers deliver.
func (a *Alerts) AddWorker(workers *river.Workers) { river.AddWorker(workers, &worker{alerts: a}) }

// Work delivers. While Slack asks for a pause the job is snoozed.
func (w *worker) Work(ctx context.Context, _ *river.Job[deliveryArgs]) error {
	_, err := w.alerts.Deliver(ctx)
	var answer *slackError
	if errors.As(err, &answer) && answer.throttled() {
		return river.JobSnooze(answer.after)
	}
	if err != nil {
		w.alerts.Log.Error("Slack delivery failed", "reason", err)
	}
	return err
}

const anyUndeliveredSQL = `
select
    exists (select from usage_alerts where delivered_at is null and raised_at > $1)
    or exists (select from audit_findings where` + unnotifiedSQL + `)`

// queueDelivery inserts a delivery when there is something to deliver and none
// waits already. After five attempts, some minutes, River gives up on a job and
// the next evaluation inserts another.
func (a *Alerts) queueDelivery(ctx context.Context, tx pgx.Tx, now time.Time) error {
	if a.SlackURL == "" {
		return nil
	}
	var waiting bool
	if err := tx.QueryRow(ctx, anyUndeliveredSQL, now.Add(-maxAge)).Scan(&waiting); err != nil {
		return fmt.Errorf("look for undelivered alerts: %w", err)
	}
	if !waiting {
		return nil
	}
	unfinished := slices.DeleteFunc(rivertype.UniqueOptsByStateDefault(), func(s rivertype.JobState) bool {
		return s == rivertype.JobStateCompleted
	})
	_, err := a.river.InsertTx(ctx, tx, deliveryArgs{}, &river.InsertOpts{
		Queue: Queue, MaxAttempts: 5, UniqueOpts: river.UniqueOpts{ByQueue: true, ByState: unfinished},
	})
	if err != nil {
		return fmt.Errorf("queue a delivery: %w", err)
	}
	return nil
}

// notice is one record that is not delivered yet.
type notice struct {
	text    string
	topic   string    // what it is counted under when it is only summed up
	finding int64     // 0 for an alert
	alert   *alertRow // nil for a finding
}

// Deliver sends one message to Slack with all that is recorded and not
// delivered, and returns the number of records delivered. When Slack refuses
// the message, some of its lines are sent alone, so that one that Slack does not
// accept stops no other.
func (a *Alerts) Deliver(ctx context.Context) (sent int, err error) {
	if a.SlackURL == "" {
		return 0, nil
	}
	notices, err := a.undelivered(ctx)
	if err != nil || len(notices) == 0 {
		return 0, err
	}
	err = a.send(ctx, notices)
	if err == nil {
		return len(notices), nil
	}
	var answer *slackError
	if !errors.As(err, &answer) || !answer.refused() || len(notices) == 1 {
		return 0, err
	}
	var errs []error
	for alone := range slices.Chunk(notices[:min(len(notices), maxLines)], 1) {
		err := a.send(ctx, alone)
		if err == nil {
			sent++
			continue
		}
		errs = append(errs, err)
		if !errors.As(err, &answer) || !answer.refused() {
			break // Slack does not work: the next attempt goes on
		}
	}
	return sent, errors.Join(errs...)
}

// send sends one message and records the result.
func (a *Alerts) send(ctx context.Context, notices []notice) error {
	err := a.post(ctx, message(notices))
	if ctx.Err() != nil && err != nil {
		return err
	}
	// Slack has it: that must be recorded even when the process stops now.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err != nil {
		return errors.Join(err, a.mark(ctx, nil, notices))
	}
	now := a.Now()
	return a.mark(ctx, &now, notices)
}

// message lists the notices. What is beyond the first lines is summed up by
// topic: the start of a month is one message, too.
func message(notices []notice) string {
	var text strings.Builder
	listed := min(len(notices), maxLines)
	for _, n := range notices[:listed] {
		fmt.Fprintf(&text, "• %s\n", n.text)
	}
	more := map[string]int{}
	for _, n := range notices[listed:] {
		more[n.topic]++
	}
	for _, topic := range slices.Sorted(maps.Keys(more)) {
		fmt.Fprintf(&text, "• %d more: %s\n", more[topic], topic)
	}
	return text.String()
}

// undelivered reads what is not delivered yet, findings first.
func (a *Alerts) undelivered(ctx context.Context) ([]notice, error) {
	now := a.Now()
	rows, _ := a.Pool.Query(ctx, listFindingsSQL, now.Add(-maxAge), maxNotices)
	notices, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (notice, error) { return findingNotice(row, now) })
	if err != nil {
		return nil, fmt.Errorf("list undelivered findings: %w", err)
	}
	rows, _ = a.Pool.Query(ctx, listAlertsSQL, now.Add(-maxAge), maxNotices)
	alerts, err := pgx.CollectRows(rows, alertNotice)
	if err != nil {
		return nil, fmt.Errorf("list undelivered alerts: %w", err)
	}
	return append(notices, alerts...), nil
}

// alertRow is a usage alert with what its text needs. Its JSON is the key.
type alertRow struct {
	TenantID    uuid.UUID       `json:"tenant_id"`
	Agent       string          `json:"agent"`
	PeriodStart time.Time       `json:"period_start"`
	Threshold   int             `json:"threshold"`
	Limit       int64           `json:"limit"`
	Count       int64           `json:"-"`
	UnitPrice   decimal.Decimal `json:"-"`
	Currency    string          `json:"-"`
}

// An alert is left out when there is one of a higher threshold for the same
// limit. The highest come first, because only so many are listed.
const listAlertsSQL = `
select u.tenant_id, u.agent, u.period_start, u.threshold, u."limit", u.count,
    coalesce(f.unit_price, a.unit_price, 0) as unit_price,
    coalesce((select currency from catalogue), 'usd') as currency
from usage_alerts u
left join agents a on a.agent = u.agent
left join period_allowances f
    on f.tenant_id = u.tenant_id and f.period_start = u.period_start and f.agent = u.agent
where u.delivered_at is null
  and u.raised_at > $1
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
limit $2`

func alertNotice(row pgx.CollectableRow) (notice, error) {
	r, err := pgx.RowToAddrOfStructByName[alertRow](row)
	if err != nil {
		return notice{}, err
	}
	text := fmt.Sprintf("%s of tenant %s: %d%% used, %d of %d, in the period from %s", r.Agent, r.TenantID,
		odometer.Percentage(r.Count, &r.Limit), r.Count, r.Limit, r.PeriodStart.UTC().Format(time.DateOnly))
	if over := odometer.Overage(r.Count, &r.Limit); over > 0 {
		text += ", extra charges " + odometer.Money(odometer.CostCents(over, r.UnitPrice), r.Currency)
	}
	return notice{text: escaped("Usage: " + text), topic: fmt.Sprintf("%s at %d%%", r.Agent, r.Threshold), alert: r}, nil
}

// Findings that were resolved since are delivered too: it has happened. One that
// was recorded as resolved is no news, except a repaired counter.
const unnotifiedSQL = `
    notified_at is null
  and found_at > $1
  and (resolved_at is null or resolved_at > found_at or kind = 'counter_drift')`

const listFindingsSQL = `
select finding_id, kind, detail, found_at, resolution
from audit_findings
where` + unnotifiedSQL + `
order by resolved_at is not null, found_at, finding_id
limit $2`

func findingNotice(row pgx.CollectableRow, now time.Time) (notice, error) {
	var id int64
	var kind, detail string
	var foundAt time.Time
	var resolution *string
	if err := row.Scan(&id, &kind, &detail, &foundAt, &resolution); err != nil {
		return notice{}, err
	}
	text := fmt.Sprintf("%s: %s (found %s ago)", kind, detail, max(0, now.Sub(foundAt)).Round(time.Minute))
	if resolution != nil {
		text += "; resolved: " + *resolution
	}
	return notice{text: escaped(text), topic: escaped(kind), finding: id}, nil
}

const markAlertsSQL = `
update usage_alerts u
set delivered_at = $1,
    attempts = u.attempts + ($1::timestamptz is null)::integer
from jsonb_to_recordset($2) as k (tenant_id uuid, agent text, period_start timestamptz, threshold integer, "limit" bigint)
where u.tenant_id = k.tenant_id
  and u.agent = k.agent
  and u.period_start = k.period_start
  and u.threshold <= k.threshold
  and u."limit" = k."limit"
  and u.delivered_at is null`

const markFindingsSQL = `
update audit_findings
set notified_at = $1,
    attempts = attempts + ($1::timestamptz is null)::integer
where finding_id = any($2)
  and notified_at is null`

// mark records when the notices were delivered; nil for a failed attempt.
func (a *Alerts) mark(ctx context.Context, at *time.Time, notices []notice) error {
	alerts, findings := []*alertRow{}, []int64{}
	for _, n := range notices {
		if n.alert != nil {
			alerts = append(alerts, n.alert)
		} else {
			findings = append(findings, n.finding)
		}
	}
	err := pgx.BeginFunc(ctx, a.Pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, markAlertsSQL, at, alerts); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, markFindingsSQL, at, findings)
		return err
	})
	if err != nil {
		return fmt.Errorf("mark %d records: %w", len(notices), err)
	}
	return nil
}

const unloggedSQL = `
select finding_id, kind, detail, tenant_id
from audit_findings
where` + unnotifiedSQL + `
  and finding_id > $2
order by finding_id
limit 1000`

// logFindings logs the findings since the last time. They are not marked: a
// Slack that is set up later gets them too.
func (a *Alerts) logFindings(ctx context.Context, now time.Time) error {
	rows, _ := a.Pool.Query(ctx, unloggedSQL, now.Add(-maxAge), a.logged)
	var id int64
	var kind, detail string
	var tenant *uuid.UUID
	_, err := pgx.ForEachRow(rows, []any{&id, &kind, &detail, &tenant}, func() error {
		log := a.Log
		if tenant != nil {
			log = log.With("tenant", *tenant)
		}
		log.Error("a finding for operators", "kind", kind, "detail", detail)
		a.logged = id
		return nil
	})
	if err != nil {
		return fmt.Errorf("list findings to log: %w", err)
	}
	return nil
}
