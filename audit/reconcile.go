package audit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"odometer/audit/findings"
	"odometer/billing"
)

// Kinds of findings that Reconcile records.
const (
	kindDrift = "counter_drift"   // a counter that differed, resolved by its repair
	kindError = "reconcile_error" // a counter that differs and was not repaired
)

// ReconcileOptions say who repairs, and how far.
type ReconcileOptions struct {
	By    string // the person or job that repairs
	Force bool   // repair also a drift of 5 % and more, and where the stream does not reach back to the period's start
}

// CounterRepair is what was done about a counter, or why nothing was.
type CounterRepair struct {
	Tenant uuid.UUID `json:"tenant_id"`
	Agent  string    `json:"agent"`
	Period time.Time `json:"period_start"`
	Before int64     `json:"before"`
	After  int64     `json:"after"` // what it is now, or should be
	Why    string    `json:"why"`
}

// Reconciliation is the result of Reconcile.
type Reconciliation struct {
	Report   *Report         `json:"audit"`
	Repaired []CounterRepair `json:"repaired"`
	Left     []CounterRepair `json:"left"`
	Others   int64           `json:"others"` // differences that are not about counters
}

// Done reports whether nothing is left that differs.
func (r *Reconciliation) Done() bool { return len(r.Left) == 0 && r.Others == 0 }

// Reconcile is an audit that then sets the counters which differ to the sum of
// their events, where the stream confirms the events. What it finds and does is
// recorded in audit_findings.
func Reconcile(ctx context.Context, o Options, scope Scope, how ReconcileOptions, progress func(Progress)) (*Reconciliation, error) {
	scope.Since = time.Time{} // a part of the stream proves no counter
	a, err := run(ctx, o, scope, progress)
	result := &Reconciliation{Report: a.report, Repaired: []CounterRepair{}, Left: []CounterRepair{}}
	if err != nil {
		return result, err
	}
	for _, key := range a.drifted {
		if err := a.reconcile(ctx, key, how, result); err != nil {
			return result, err
		}
	}
	result.Others = a.report.Different - int64(len(a.drifted)) - result.repairedTotals()
	if o.Drift != nil && scope.Tenant == nil {
		o.Drift(int64(len(result.Left)))
	}
	return result, nil
}

// repairedTotals counts the frozen totals that differed from counters which are
// repaired now: one damage that two comparisons found.
func (r *Reconciliation) repairedTotals() (n int64) {
	for _, d := range r.Report.Differences {
		if d.Kind != TotalDiffers {
			continue
		}
		for _, c := range r.Repaired {
			if *d.Tenant == c.Tenant && d.Agent == c.Agent && d.Period.Equal(c.Period) {
				n++
			}
		}
	}
	return n
}

// reconcile repairs one counter, or records why not.
func (a *auditor) reconcile(ctx context.Context, key counterKey, how ReconcileOptions, result *Reconciliation) error {
	r := CounterRepair{Tenant: key.Tenant, Agent: key.Agent, Period: key.Period}
	repaired := false
	err := pgx.BeginFunc(ctx, a.options.Pool, func(tx pgx.Tx) error {
		if err := billing.Lock(ctx, tx, key.Tenant); err != nil {
			return err
		}
		s, err := loadSums(ctx, tx, key)
		if err != nil {
			return err
		}
		r.Before, r.After = orZero(s.Counter), orZero(s.Events)
		if r.Before == r.After {
			return nil // it agrees by now
		}
		if r.Why = a.refusal(s, how); r.Why != "" {
			return nil
		}
		repaired = true
		return a.repair(ctx, tx, s, how, &r)
	})
	if refused := new(pgconn.PgError); errors.Is(err, errNoPeriod) || errors.As(err, &refused) && strings.HasPrefix(refused.Code, "23") {
		r.Why, err, repaired = "it could not be repaired: "+err.Error(), nil, false
	}
	switch {
	case err != nil:
		return err
	case repaired:
		result.Repaired = append(result.Repaired, r)
	case r.Why != "":
		result.Left = append(result.Left, r)
		return a.recordLeft(ctx, &r, how)
	}
	return nil
}

// refusal says why a counter is not repaired, "" when it may be.
func (a *auditor) refusal(s *counterSums, how ReconcileOptions) string {
	again := "odometer reconcile --tenant " + s.Tenant.String()
	switch {
	case a.report.streamBroken:
		return "the stream is not the one that was read: run odometer run aggregator, then " + again
	case !a.report.proven(s.Tenant):
		return "stream and events of this tenant do not agree: what they lack comes back by odometer replay, see odometer audit --tenant " + s.Tenant.String()
	case s.Closed && s.Total == nil:
		return "its period is closed and its frozen total is gone: restore period_totals from a backup"
	case s.Closed && *s.Total != orZero(s.Events):
		return fmt.Sprintf("its period is closed with %d, and the sum of its events is %d: the frozen total is the truth, the events must be restored", *s.Total, orZero(s.Events))
	case how.Force:
		return ""
	case a.at.beginsBefore(s.Period):
		return "the stream no longer holds the first messages of its period, so nothing proves its events: " + again + " --force"
	case !s.driftBelow(forceFrom):
		return "the drift is 5 % or more: find its cause first, then " + again + " --force"
	}
	return ""
}

const sumsOfCounterSQL = `
select
    (
        select sum(quantity)::bigint
        from (
            select quantity from usage_events where tenant_id = $1 and agent = $2 and period_start = $3
            union all
            select quantity from usage_removed where tenant_id = $1 and agent = $2 and period_start = $3
        ) entries
    ),
    (select count from usage_counters where tenant_id = $1 and agent = $2 and period_start = $3),
    (select count from period_totals where tenant_id = $1 and agent = $2 and period_start = $3),
    exists (select from billing_periods where tenant_id = $1 and period_start = $3 and status = 'closed')`

// loadSums reads one counter and its events under the partition's lock.
func loadSums(ctx context.Context, tx pgx.Tx, key counterKey) (*counterSums, error) {
	s := &counterSums{counterKey: key}
	err := tx.QueryRow(ctx, sumsOfCounterSQL, key.Tenant, key.Agent, key.Period).Scan(&s.Events, &s.Counter, &s.Total, &s.Closed)
	if err != nil {
		return nil, fmt.Errorf("add up the events of %s/%s: %w", key.Tenant, key.Agent, err)
	}
	return s, nil
}

const whyRepaired = "it was not the sum of its events, which the stream confirms"

const setCounterSQL = `
insert into usage_counters as c (tenant_id, agent, period_start, period_end, count, last_event_at)
select p.tenant_id, $2, p.period_start, p.period_end, $4, newest.at
from billing_periods p
cross join (
    select max(occurred_at) as at
    from usage_events
    where tenant_id = $1
      and agent = $2
      and period_start = $3
) newest
where p.tenant_id = $1
  and p.period_start = $3
on conflict (tenant_id, agent, period_start) do update
set count = excluded.count,
    last_event_at = coalesce(excluded.last_event_at, c.last_event_at),
    updated_at = now()`

// For a counter that has neither a period nor events.
const deleteCounterSQL = `
delete from usage_counters
where tenant_id = $1
  and agent = $2
  and period_start = $3`

var errNoPeriod = errors.New("its events are in a period that does not exist")

// repair sets the counter and records who did it and why.
func (a *auditor) repair(ctx context.Context, tx pgx.Tx, s *counterSums, how ReconcileOptions, r *CounterRepair) error {
	tag, err := tx.Exec(ctx, setCounterSQL, s.Tenant, s.Agent, s.Period, r.After)
	if err != nil {
		return fmt.Errorf("set the counter of %s/%s: %w", s.Tenant, s.Agent, err)
	}
	if tag.RowsAffected() == 0 {
		if s.Events != nil {
			return errNoPeriod
		}
		if _, err := tx.Exec(ctx, deleteCounterSQL, s.Tenant, s.Agent, s.Period); err != nil {
			return fmt.Errorf("delete the counter of %s/%s: %w", s.Tenant, s.Agent, err)
		}
	}
	r.Why = whyRepaired
	f := r.finding(kindDrift, how.By)
	f.Detail = fmt.Sprintf("the counter of agent %s was %d and the sum of its events is %d: it was set to that", r.Agent, r.Before, r.After)
	if err := findings.Record(ctx, tx, f); err != nil {
		return err
	}
	if 100*max(r.Before-r.After, r.After-r.Before) <= alertAbove*r.After {
		if err := markNotified(ctx, tx, f); err != nil {
			return err
		}
	}
	if err := findings.Resolve(ctx, tx, kindDrift, f.Subject, how.By, fmt.Sprintf("set from %d to %d: %s", r.Before, r.After, r.Why)); err != nil {
		return err
	}
	return findings.Resolve(ctx, tx, kindError, f.Subject, how.By, "the counter was repaired")
}

const markNotifiedSQL = `
update audit_findings
set notified_at = now()
where kind = $1
  and subject = $2
  and resolved_at is null`

// markNotified keeps a finding on record without an alert.
func markNotified(ctx context.Context, tx pgx.Tx, f findings.Finding) error {
	if _, err := tx.Exec(ctx, markNotifiedSQL, f.Kind, f.Subject); err != nil {
		return fmt.Errorf("mark finding %s of %s as notified: %w", f.Kind, f.Subject, err)
	}
	return nil
}

// recordLeft records that a counter was not repaired, and why.
func (a *auditor) recordLeft(ctx context.Context, r *CounterRepair, how ReconcileOptions) error {
	f := r.finding(kindError, how.By)
	f.Detail = fmt.Sprintf("the counter of agent %s is %d and the sum of its events is %d; it was not repaired: %s", r.Agent, r.Before, r.After, r.Why)
	return findings.Record(ctx, a.options.Pool, f)
}

func (r *CounterRepair) finding(kind, by string) findings.Finding {
	return findings.Finding{
		Kind: kind, Subject: fmt.Sprintf("%s %s %s", r.Tenant, r.Agent, r.Period.UTC().Format(time.RFC3339Nano)),
		Tenant: r.Tenant, Agent: r.Agent, Period: r.Period, Before: &r.Before, After: &r.After, FoundBy: by,
	}
}
