package reporter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"odometer/audit/findings"
)

// retryUndecided asks again about links that some pass had no answer for,
// those that have failed least first.
func (p *pass) retryUndecided(ctx context.Context) error {
	due := p.now()
	if p.scope.ByHand {
		due = due.AddDate(100, 0, 0)
	}
	var last *Link
	for p.halted() == nil {
		links, err := undecided(ctx, p.Pool, p.scope.Tenant, due, p.started, last, pageSize)
		if err != nil || len(links) == 0 {
			return err
		}
		cursor := *links[len(links)-1] // as it was listed
		last = &cursor
		tenants, err := p.retry(ctx, links)
		if err != nil {
			return err
		}
		if len(tenants) > 0 {
			if err := p.work(ctx, tenants); err != nil {
				return err
			}
		}
	}
	return nil
}

// retry decides what it can and returns the tenants that may be told more now.
func (p *pass) retry(ctx context.Context, links []*Link) ([]uuid.UUID, error) {
	if err := p.raiseOnce(ctx); err != nil {
		return nil, err
	}
	group, asking := errgroup.WithContext(ctx)
	group.SetLimit(p.sideBySide())
	for _, l := range links {
		group.Go(func() error { return ungone(p.retryLink(asking, l)) })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var tenants []uuid.UUID
	seen := map[uuid.UUID]bool{}
	for _, l := range links {
		if !l.State.undecided() && !seen[l.Tenant] {
			seen[l.Tenant] = true
			tenants = append(tenants, l.Tenant)
		}
	}
	return tenants, nil
}

// retryLink sends a link again while Stripe still knows its identifier, and
// asks Stripe's summary after that. A usage record is set, not added: its
// summary is asked first, at any age, and sending it again is harmless.
func (p *pass) retryLink(ctx context.Context, l *Link) error {
	switch {
	case l.Account != p.planner.account || l.Livemode != p.planner.livemode || l.Sink != p.Sink:
		p.leaveLink(l, "undecided", fmt.Sprintf("it was sent by sink %s to account %q", l.Sink, l.Account))
		return nil
	case l.FirstAttempt == nil:
		return p.tell(ctx, l)
	case l.Sink == UsageRecords:
		return p.askUsage(ctx, l)
	case p.now().Sub(*l.FirstAttempt) < resendFor:
		return p.tell(ctx, l)
	default:
		return p.askSummary(ctx, l)
	}
}

// billedIn finds the period that a link is billed in.
func (p *pass) billedIn(ctx context.Context, l *Link) (*period, error) {
	var in period
	err := p.Pool.QueryRow(ctx, periodAtSQL, l.Tenant, l.ReportedAt).Scan(&in.start, &in.end)
	switch {
	case errors.Is(err, pgx.ErrNoRows): // the subscription was changed: its minute will do
		in.start = l.ReportedAt.Truncate(time.Minute)
		in.end = in.start.Add(time.Minute)
	case err != nil:
		return nil, &ourError{fmt.Errorf("find the period that link %s is billed in: %w", l.Identifier, err)}
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

// ask reads Stripe's summary of a link's target in a period, by the breaker.
func (p *pass) ask(ctx context.Context, l *Link, in *period) (shown int64, err error) {
	err = p.asking.do(l.Customer, func() (err error) {
		shown, err = p.shown(ctx, l.Sink, l.Target, in)
		return err
	})
	return shown, err
}

func (p *pass) askUsage(ctx context.Context, l *Link) error {
	in, err := p.billedIn(ctx, l)
	if err != nil {
		return err
	}
	shown, err := p.ask(ctx, l, in)
	switch {
	case err != nil:
		return p.unasked(ctx, l, err)
	case shown == l.Value:
		p.heard(nil)
		return p.accept(ctx, l, p.now())
	default:
		return p.tell(ctx, l)
	}
}

// unasked leaves a link whose summary could not be read for later.
func (p *pass) unasked(ctx context.Context, l *Link, err error) error {
	if fatal := p.asked(err); fatal != nil {
		return fatal
	}
	p.leaveLink(l, "undecided", reason(err))
	if errors.Is(err, errOpen) {
		return nil // nothing was asked
	}
	now := p.now()
	l.State, l.Detail, l.RetryAt = Uncertain, reason(err), after(now, 15*time.Minute)
	if err := ungone(decide(ctx, p.Pool, l)); err != nil || now.Sub(*l.FirstAttempt) < resendFor+absentFor {
		return err
	}
	return findings.Record(ctx, p.Pool, findings.Finding{
		Kind: kindUnclear, Subject: l.Identifier, Tenant: l.Tenant, Agent: l.Agent, Period: l.Period, FoundBy: "report",
		Detail: fmt.Sprintf("%d units for customer %s were sent at %s without an answer, and Stripe's summary of meter %s cannot be read: %s",
			l.Delta(), l.Customer, l.FirstAttempt.Format(time.RFC3339), l.Meter, l.Detail),
	})
}

// meteredSQL is what Stripe's meter should hold for a target by time.
const meteredSQL = `
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

func metered(ctx context.Context, q querier, t Target, in *period) (sum int64, err error) {
	err = q.QueryRow(ctx, meteredSQL, t.Customer, t.Meter, t.Account, t.Livemode, in.start, in.end).Scan(&sum)
	if err != nil {
		return 0, fmt.Errorf("add up what meter %s of %s was told: %w", t.Meter, t.Customer, err)
	}
	return sum, nil
}

// askSummary decides a link that Stripe may have forgotten the identifier of.
// Shown with it, it arrived. Shown without it, it must stay so for a day
// before it is taken for lost and told anew: summaries lag. Anything else is
// for people.
func (p *pass) askSummary(ctx context.Context, l *Link) error {
	in, err := p.billedIn(ctx, l)
	if err != nil {
		return err
	}
	without, err := metered(ctx, p.Pool, l.Target, in)
	if err != nil {
		return err
	}
	shown, err := p.ask(ctx, l, in)
	if err != nil {
		return p.unasked(ctx, l, err)
	}
	p.heard(nil)
	now := p.now()
	switch {
	case shown == without+l.Delta():
		return errors.Join(p.accept(ctx, l, now), p.clear(ctx, l))
	case shown == without:
		return p.absent(ctx, l, now)
	default:
		l.State, l.AbsentSince = Uncertain, nil
		l.RetryAt = after(now, time.Hour)
		l.Detail = fmt.Sprintf("Stripe's summary says %d units, which is neither %d (without it) nor %d (with it)", shown, without, without+l.Delta())
		return p.unclear(ctx, l, shown, without)
	}
}

// absent notes that a summary is without the link, and gives the link up once
// it has stayed so.
func (p *pass) absent(ctx context.Context, l *Link, now time.Time) error {
	if l.AbsentSince != nil && now.Sub(*l.AbsentSince) >= absentFor {
		l.State, l.Decided, l.RetryAt = Refused, &now, &now
		l.Detail = "it never arrived: Stripe's summary has stayed without it for a day"
		return errors.Join(decide(ctx, p.Pool, l), p.clear(ctx, l))
	}
	if l.AbsentSince == nil {
		l.AbsentSince = &now
	}
	l.State = Uncertain
	l.RetryAt = after(now, time.Hour)
	l.Detail = fmt.Sprintf("Stripe's summary is without it since %s; it is told anew when that stays so for a day", l.AbsentSince.Format(time.RFC3339))
	p.leaveLink(l, "undecided", l.Detail)
	return decide(ctx, p.Pool, l)
}

const kindUnclear = "report_unclear"

func (p *pass) unclear(ctx context.Context, l *Link, shown, without int64) error {
	p.leaveLink(l, "undecided", l.Detail)
	if err := decide(ctx, p.Pool, l); err != nil {
		return err
	}
	return findings.Record(ctx, p.Pool, findings.Finding{
		Kind: kindUnclear, Subject: l.Identifier, Tenant: l.Tenant, Agent: l.Agent, Period: l.Period,
		Detail: fmt.Sprintf("%d units for customer %s were sent at %s without an answer, and %s: something else reports to meter %s",
			l.Delta(), l.Customer, l.FirstAttempt.Format(time.RFC3339), l.Detail, l.Meter),
		Before: &shown, After: &without, FoundBy: "report",
	})
}

func (p *pass) clear(ctx context.Context, l *Link) error {
	return findings.Resolve(ctx, p.Pool, kindUnclear, l.Identifier, "report", "Stripe's summary has decided it")
}
