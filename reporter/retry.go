package reporter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"odometer/audit/findings"
)

// retryUndecided retries entries for which some pass got no answer, those with
// the fewest attempts first.
func (p *pass) retryUndecided(ctx context.Context) error {
	due := p.r.now()
	if p.scope.ByHand {
		due = due.AddDate(100, 0, 0)
	}
	var last *LedgerEntry
	for !p.halted() {
		entries, err := undecidedEntries(ctx, p.r.Pool, p.scope.Tenant, due, p.started, last, pageSize)
		if err != nil || len(entries) == 0 {
			return err
		}
		cursor := *entries[len(entries)-1] // its values when it was listed
		last = &cursor
		tenants, err := p.retry(ctx, entries)
		if err != nil {
			return err
		}
		if len(tenants) > 0 {
			if err := p.reportTenants(ctx, tenants); err != nil {
				return err
			}
		}
	}
	return nil
}

// retry decides what it can and returns the tenants for which more can be
// reported now.
func (p *pass) retry(ctx context.Context, entries []*LedgerEntry) ([]uuid.UUID, error) {
	if err := p.ensureGenerationRaised(ctx); err != nil {
		return nil, err
	}
	err := concurrently(ctx, p.concurrency(), entries, func(ctx context.Context, e *LedgerEntry) error {
		return ignoreDecidedElsewhere(p.retryEntry(ctx, e))
	})
	if err != nil {
		return nil, err
	}
	var tenants []uuid.UUID
	seen := map[uuid.UUID]bool{}
	for _, e := range entries {
		if !e.State.undecided() && !seen[e.Tenant] {
			seen[e.Tenant] = true
			tenants = append(tenants, e.Tenant)
		}
	}
	return tenants, nil
}

// retryEntry sends an entry again while Stripe remembers its identifier, and
// after that lets Stripe's summary decide. A usage record is set, not added:
// its summary is read first, at any age, and sending it again is harmless.
func (p *pass) retryEntry(ctx context.Context, e *LedgerEntry) error {
	switch {
	case e.Account != p.planner.account || e.Livemode != p.planner.livemode || e.Sink != p.r.Sink:
		p.leaveEntry(e, "undecided", fmt.Sprintf("it was sent by sink %s to account %q", e.Sink, e.Account))
		return nil
	case e.FirstAttempt == nil:
		return p.sendEntry(ctx, e)
	case e.Sink == UsageRecords:
		return p.checkUsageRecord(ctx, e)
	case p.r.now().Sub(*e.FirstAttempt) < resendFor:
		return p.sendEntry(ctx, e)
	default:
		return p.checkSummary(ctx, e)
	}
}

// billedPeriod finds the period in which an entry is billed.
func (p *pass) billedPeriod(ctx context.Context, e *LedgerEntry) (*period, error) {
	var in period
	err := p.r.Pool.QueryRow(ctx, periodAtSQL, e.Tenant, e.ReportedAt).Scan(&in.start, &in.end)
	switch {
	case errors.Is(err, pgx.ErrNoRows): // the subscription was changed: the entry's minute is enough
		in.start = e.ReportedAt.Truncate(time.Minute)
		in.end = in.start.Add(time.Minute)
	case err != nil:
		return nil, &ourError{fmt.Errorf("find the period in which ledger entry %s is billed: %w", e.Identifier, err)}
	}
	in.start, in.end = in.start.UTC(), in.end.UTC()
	return &in, nil
}

const periodAtSQL = `
select period_start, period_end
from billing_periods
where tenant_id = $1
  and period_start <= $2
  and period_end > $2`

func (p *pass) checkUsageRecord(ctx context.Context, e *LedgerEntry) error {
	in, err := p.billedPeriod(ctx, e)
	if err != nil {
		return err
	}
	shown, err := p.r.readSummary(ctx, e.Sink, e.MeterTarget, in)
	switch {
	case err != nil:
		return p.noteUnreadable(ctx, e, err)
	case shown == e.Value:
		p.noteReachable(nil)
		return p.storeAccepted(ctx, e, p.r.now())
	default:
		return p.sendEntry(ctx, e)
	}
}

// noteUnreadable leaves an entry whose summary could not be read for later.
func (p *pass) noteUnreadable(ctx context.Context, e *LedgerEntry, err error) error {
	if fatal := p.noteReadError(err); fatal != nil {
		return fatal
	}
	p.leaveEntry(e, "undecided", reason(err))
	if errors.Is(err, errBreakerOpen) {
		return nil // no call was made
	}
	now := p.r.now()
	e.State, e.Detail, e.RetryAt = Unknown, reason(err), after(now, 15*time.Minute)
	if err := ignoreDecidedElsewhere(storeDecision(ctx, p.r.Pool, e)); err != nil || now.Sub(*e.FirstAttempt) < resendFor+absentFor {
		return err
	}
	return p.recordUnclear(ctx, e, fmt.Sprintf("Stripe's summary of meter %s cannot be read: %s", e.Meter, e.Detail), nil, nil)
}

// What Stripe's meter should hold for a target, by timestamps.
const ledgerTotalSQL = `
select coalesce(sum(to_total - from_total), 0)::bigint
from overage_reports
where stripe_customer = $1
  and meter = $2
  and account = $3
  and livemode = $4
  and reported_at >= $5
  and reported_at < $6
  and state in ('accepted', 'verified')
  and origin <> 'invoiced'`

func ledgerTotal(ctx context.Context, q querier, t MeterTarget, in *period) (sum int64, err error) {
	err = q.QueryRow(ctx, ledgerTotalSQL, t.Customer, t.Meter, t.Account, t.Livemode, in.start, in.end).Scan(&sum)
	if err != nil {
		return 0, fmt.Errorf("add up the entries of meter %s of %s: %w", t.Meter, t.Customer, err)
	}
	return sum, nil
}

// checkSummary decides an entry whose identifier Stripe may have forgotten. If
// the summary includes it, it arrived. If the summary is without it, it must
// stay so for a day before the entry counts as lost and is planned again, since
// summaries lag. Any other total is for people.
func (p *pass) checkSummary(ctx context.Context, e *LedgerEntry) error {
	in, err := p.billedPeriod(ctx, e)
	if err != nil {
		return err
	}
	without, err := ledgerTotal(ctx, p.r.Pool, e.MeterTarget, in)
	if err != nil {
		return err
	}
	shown, err := p.r.readSummary(ctx, e.Sink, e.MeterTarget, in)
	if err != nil {
		return p.noteUnreadable(ctx, e, err)
	}
	p.noteReachable(nil)
	now := p.r.now()
	switch {
	case shown == without+e.Delta():
		return errors.Join(p.storeAccepted(ctx, e, now), p.resolveUnclear(ctx, e))
	case shown == without:
		return p.noteAbsent(ctx, e, now)
	default:
		e.State, e.AbsentSince = Unknown, nil
		e.RetryAt = after(now, time.Hour)
		e.Detail = fmt.Sprintf("Stripe's summary says %d units, which is neither %d (without it) nor %d (with it)", shown, without, without+e.Delta())
		p.leaveEntry(e, "undecided", e.Detail)
		if err := storeDecision(ctx, p.r.Pool, e); err != nil {
			return err
		}
		return p.recordUnclear(ctx, e, e.Detail+": something else reports to meter "+e.Meter, &shown, &without)
	}
}

// noteAbsent notes that a summary is without the entry, and rejects the entry
// once it has stayed so for absentFor.
func (p *pass) noteAbsent(ctx context.Context, e *LedgerEntry, now time.Time) error {
	if e.AbsentSince != nil && now.Sub(*e.AbsentSince) >= absentFor {
		e.State, e.Decided, e.RetryAt = Rejected, &now, &now
		e.Detail = "it never arrived: Stripe's summary has stayed without it for a day"
		return errors.Join(storeDecision(ctx, p.r.Pool, e), p.resolveUnclear(ctx, e))
	}
	if e.AbsentSince == nil {
		e.AbsentSince = &now
	}
	e.State = Unknown
	e.RetryAt = after(now, time.Hour)
	e.Detail = fmt.Sprintf("Stripe's summary is without it since %s; it is reported again if that stays so for a day", e.AbsentSince.Format(time.RFC3339))
	p.leaveEntry(e, "undecided", e.Detail)
	return storeDecision(ctx, p.r.Pool, e)
}

const kindUnclear = "report_unclear"

// recordUnclear records a finding for an entry that nothing has decided: why,
// what the summary shows and what it would show without the entry.
func (p *pass) recordUnclear(ctx context.Context, e *LedgerEntry, why string, shown, without *int64) error {
	return findings.Record(ctx, p.r.Pool, findings.Finding{
		Kind: kindUnclear, Subject: e.Identifier, Tenant: e.Tenant, Agent: e.Agent, Period: e.Period,
		Detail: fmt.Sprintf("%d units for customer %s were sent at %s without an answer, and %s",
			e.Delta(), e.Customer, e.FirstAttempt.Format(time.RFC3339), why),
		Before: shown, After: without, FoundBy: "report",
	})
}

func (p *pass) resolveUnclear(ctx context.Context, e *LedgerEntry) error {
	return findings.Resolve(ctx, p.r.Pool, kindUnclear, e.Identifier, "report", "Stripe's summary has decided it")
}
