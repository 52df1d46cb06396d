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

// Kinds of findings that Reconcile writes down.
const (
	kindDrift = "counter_drift"   // a counter that differed, resolved by its repair
	kindError = "reconcile_error" // a counter that differs and was left alone
)

// How says who repairs, and how far.
type How struct {
	Who   string // the person or job that repairs
	Force bool   // also a drift of 5 % and more, and where the stream cannot prove the events any more
}

// CounterRepair is what was done about a counter, or why it was left alone.
type CounterRepair struct {
	Tenant uuid.UUID `json:"tenant_id"`
	Agent  string    `json:"agent"`
	Period time.Time `json:"period_start"`
	Before int64     `json:"before"`
	After  int64     `json:"after"` // what it is now, or should be
	Why    string    `json:"why"`
}

// Repaired is what a reconciliation came to.
type Repaired struct {
	Report   *Report         `json:"audit"`
	Repaired []CounterRepair `json:"repaired"`
	Left     []CounterRepair `json:"left"`
	Others   int64           `json:"others"` // differences that are no counter's
}

// Done reports whether nothing is left that differs.
func (r *Repaired) Done() bool { return len(r.Left) == 0 && r.Others == 0 }

// Reconcile is an audit that then sets the counters which differ to the sum of
// their events, where the stream bears the events out. What it finds and does
// is written to audit_findings.
func Reconcile(ctx context.Context, o Options, scope Scope, how How, progress func(Progress)) (*Repaired, error) {
	scope.Since = time.Time{} // a part of the stream proves no counter
	report, a, err := run(ctx, o, scope, progress)
	result := &Repaired{Report: report, Repaired: []CounterRepair{}, Left: []CounterRepair{}}
	if err != nil {
		return result, err
	}
	left := 0
	for _, key := range a.drifted {
		done, err := a.reconcile(ctx, key, how, result)
		if err != nil {
			return result, err
		}
		if !done {
			left++
		}
	}
	result.Others = report.Different - int64(len(a.drifted))
	result.Others -= a.healed(result)
	if a.Drift != nil && scope.Tenant == nil {
		a.Drift(int64(left))
	}
	return result, nil
}

// healed counts the frozen totals that differed from counters which are
// repaired now: one damage, said by two comparisons.
func (a *auditor) healed(result *Repaired) (n int64) {
	for _, d := range a.report.Differences {
		if d.Kind != TotalDiffers {
			continue
		}
		for _, r := range result.Repaired {
			if *d.Tenant == r.Tenant && d.Agent == r.Agent && d.Period.Equal(r.Period) {
				n++
			}
		}
	}
	return n
}

// reconcile deals with one counter; done when it is right now.
func (a *auditor) reconcile(ctx context.Context, key drift, how How, result *Repaired) (done bool, err error) {
	r := CounterRepair{Tenant: key.Tenant, Agent: key.Agent, Period: key.Period}
	err = pgx.BeginFunc(ctx, a.Pool, func(tx pgx.Tx) error {
		if err := billing.Lock(ctx, tx, key.Tenant); err != nil {
			return err
		}
		s, err := loadSums(ctx, tx, key)
		if err != nil {
			return err
		}
		r.Before, r.After = orZero(s.Counter), orZero(s.Events)
		if r.Before == r.After {
			r.Why = "it agrees by now"
			done = true
			return nil
		}
		if r.Why = a.refusal(s, how); r.Why != "" {
			return nil
		}
		return a.repair(ctx, tx, s, how, &r)
	})
	if refused := new(pgconn.PgError); errors.Is(err, errNoPeriod) || errors.As(err, &refused) && strings.HasPrefix(refused.Code, "23") {
		r.Why, err = "it could not be repaired: "+err.Error(), nil
	}
	switch {
	case err != nil:
		return false, err
	case done:
		return true, nil
	case r.Why == repairedWhy:
		result.Repaired = append(result.Repaired, r)
		return true, nil
	}
	result.Left = append(result.Left, r)
	return false, a.leave(ctx, &r, how)
}

// refusal says why a counter is left alone, "" when it may be repaired.
func (a *auditor) refusal(s *sums, how How) string {
	again := "odometer reconcile --tenant " + s.Tenant.String()
	switch {
	case a.report.untrue:
		return "the stream is not the one that was read: run odometer run aggregator, then " + again
	case !a.report.proven(s.Tenant):
		return "stream and events of this tenant do not agree: what they lack comes back by odometer replay, see odometer audit --tenant " + s.Tenant.String()
	case s.Closed && s.Total == nil:
		return "its period is closed and its frozen total is gone: restore period_totals from a backup"
	case s.Closed && *s.Total != orZero(s.Events):
		return fmt.Sprintf("its period is closed with %d, and its events come to %d: the frozen total is the truth, the events must be restored", *s.Total, orZero(s.Events))
	case how.Force:
		return ""
	case a.beyond(s.Period):
		return "the stream no longer holds the first messages of its period, so nothing proves its events: " + again + " --force"
	case !within(orZero(s.Events), orZero(s.Counter), smallDrift):
		return "the drift is 5 % or more: look at it first, then " + again + " --force"
	}
	return ""
}

const sumsOfSQL = `
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
func loadSums(ctx context.Context, tx pgx.Tx, key drift) (*sums, error) {
	s := &sums{Tenant: key.Tenant, Agent: key.Agent, Period: key.Period}
	err := tx.QueryRow(ctx, sumsOfSQL, key.Tenant, key.Agent, key.Period).Scan(&s.Events, &s.Counter, &s.Total, &s.Closed)
	if err != nil {
		return nil, fmt.Errorf("add up the events of %s/%s: %w", key.Tenant, key.Agent, err)
	}
	return s, nil
}

const repairedWhy = "it was not the sum of its events, which the stream bears out"

const setCounterSQL = `
insert into usage_counters as c (tenant_id, agent, period_start, period_end, count, last_event_at)
select p.tenant_id, $2, p.period_start, p.period_end, $4, l.at
from billing_periods p
cross join (
    select max(occurred_at) as at
    from usage_events
    where tenant_id = $1
      and agent = $2
      and period_start = $3
) l
where p.tenant_id = $1
  and p.period_start = $3
on conflict (tenant_id, agent, period_start) do update
set count = excluded.count,
    last_event_at = coalesce(excluded.last_event_at, c.last_event_at),
    updated_at = now()`

// A counter of no period and no events is nobody's.
const dropCounterSQL = `
delete from usage_counters
where tenant_id = $1
  and agent = $2
  and period_start = $3`

var errNoPeriod = errors.New("its events are in a period that does not exist")

// repair sets the counter and writes down who did it and why.
func (a *auditor) repair(ctx context.Context, tx pgx.Tx, s *sums, how How, r *CounterRepair) error {
	tag, err := tx.Exec(ctx, setCounterSQL, s.Tenant, s.Agent, s.Period, r.After)
	if err != nil {
		return fmt.Errorf("set the counter of %s/%s: %w", s.Tenant, s.Agent, err)
	}
	if tag.RowsAffected() == 0 {
		if s.Events != nil {
			return errNoPeriod
		}
		if _, err := tx.Exec(ctx, dropCounterSQL, s.Tenant, s.Agent, s.Period); err != nil {
			return fmt.Errorf("remove the counter of %s/%s: %w", s.Tenant, s.Agent, err)
		}
	}
	r.Why = repairedWhy
	f := r.finding(kindDrift, how.Who)
	f.Detail = fmt.Sprintf("the counter of agent %s said %d and its events come to %d: it was set to that", r.Agent, r.Before, r.After)
	if err := findings.Record(ctx, tx, f); err != nil {
		return err
	}
	if 100*abs(r.Before-r.After) <= alertedAbove*r.After {
		if err := keepQuiet(ctx, tx, f); err != nil {
			return err
		}
	}
	if err := findings.Resolve(ctx, tx, kindDrift, f.Subject, how.Who, fmt.Sprintf("set from %d to %d: %s", r.Before, r.After, r.Why)); err != nil {
		return err
	}
	return findings.Resolve(ctx, tx, kindError, f.Subject, how.Who, "the counter was repaired")
}

func abs(n int64) int64 {
	if n < 0 {
		return -n
	}
	return n
}

const keepQuietSQL = `
update audit_findings
set notified_at = now()
where kind = $1
  and subject = $2
  and resolved_at is null`

// keepQuiet has nobody told of a finding; it stays on record.
func keepQuiet(ctx context.Context, tx pgx.Tx, f findings.Finding) error {
	if _, err := tx.Exec(ctx, keepQuietSQL, f.Kind, f.Subject); err != nil {
		return fmt.Errorf("mark finding %s of %s as told: %w", f.Kind, f.Subject, err)
	}
	return nil
}

// leave writes down that a counter is left alone, and why.
func (a *auditor) leave(ctx context.Context, r *CounterRepair, how How) error {
	f := r.finding(kindError, how.Who)
	f.Detail = fmt.Sprintf("the counter of agent %s says %d and its events come to %d; it is left alone: %s", r.Agent, r.Before, r.After, r.Why)
	return findings.Record(ctx, a.Pool, f)
}

func (r *CounterRepair) finding(kind, who string) findings.Finding {
	return findings.Finding{
		Kind: kind, Subject: fmt.Sprintf("%s %s %s", r.Tenant, r.Agent, r.Period.UTC().Format(time.RFC3339Nano)),
		Tenant: r.Tenant, Agent: r.Agent, Period: r.Period, Before: &r.Before, After: &r.After, FoundBy: who,
	}
}
