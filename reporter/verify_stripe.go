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

// Verification is the result of a comparison with Stripe's summaries. It counts
// customers' meters and periods.
type Verification struct {
	Compared  int  `json:"compared"`
	Equal     int  `json:"equal"`
	Different int  `json:"different"`
	Pending   int  `json:"unsettled"` // Stripe may still be adding up, or did not answer
	Released  bool `json:"released"`  // a stopped reporter may continue
	Appended  int  `json:"appended"`  // entries that Stripe had beyond the ledger
}

// comparedTarget is a target in a period, according to the ledger.
type comparedTarget struct {
	Tenant uuid.UUID
	Agent  string
	Start  time.Time
	End    time.Time
	Sink   Sink
	MeterTarget
	Recent bool // something was decided so recently that the summary may lack it
	Busy   bool // something is undecided
	Final  bool // the period's final invoice was read: it has decided

	ledger, stripe int64
	result         string // one of the comparison constants
	reason         string // why the result is comparisonPending
}

func (c *comparedTarget) period() *period { return &period{start: c.Start.UTC(), end: c.End.UTC()} }

const comparedSQL = `
select
    p.tenant_id as tenant,
    min(r.agent) as agent,
    p.period_start as start,
    p.period_end as end,
    min(r.sink) as sink,
    r.account,
    r.livemode,
    r.stripe_customer as customer,
    r.meter,
    bool_or(r.decided_at > $1) as recent,
    exists (
        select from overage_reports u
        where u.account = r.account
          and u.livemode = r.livemode
          and u.stripe_customer = r.stripe_customer
          and u.meter = r.meter
          and u.state in ('planned', 'sending', 'unknown')
    ) as busy,
    exists (
        select from period_invoices i
        where i.tenant_id = p.tenant_id and i.period_start = p.period_start and i.concluded_at is not null
    ) as final
from overage_reports r
join billing_periods p on p.tenant_id = r.tenant_id and r.reported_at >= p.period_start and r.reported_at < p.period_end
where r.state = any($8)
  and r.origin <> 'invoiced'
  and ($9::uuid is null or r.tenant_id = $9)
  and r.account = $2
  and r.livemode = $3
  and (r.stripe_customer, r.meter, p.period_start) > ($4, $5, $6)
group by p.tenant_id, p.period_start, p.period_end, r.account, r.livemode, r.stripe_customer, r.meter
order by r.stripe_customer, r.meter, p.period_start
limit $7`

// Verify compares what Stripe accepted with what its summaries show, once they
// have had SummaryDelay to do so. What is equal is verified; a difference
// becomes a finding and is never sent again silently: the period's final
// invoice decides. A reporter that stopped because of a restored backup is
// compared first, and released.
//
// Passes may run during the comparison: what they change meanwhile stays open.
// At Stripe's rate for summaries many customers take more than verifyFor; the
// next run continues.
func (r *Reporter) Verify(ctx context.Context, byHand bool) (Verification, error) {
	var v Verification
	if r.Sink == DryRun {
		return v, nil
	}
	account, err := r.account(ctx)
	if err != nil {
		return v, err
	}
	if err := r.restore(ctx, account, byHand, &v); err != nil {
		return v, err
	}
	began := time.Now()
	err = r.eachCompared(ctx, account, nil, []State{Accepted}, func(page []*comparedTarget) (more bool, err error) {
		err = r.comparePage(ctx, page, &v)
		return time.Since(began) < verifyFor, err
	})
	if err != nil || time.Since(began) >= verifyFor || v.Different > 0 || v.Pending > 0 {
		return v, err
	}
	if _, err := r.Pool.Exec(ctx, resolveMeterErrorsSQL, r.now()); err != nil {
		return v, fmt.Errorf("resolve errors of meters: %w", err)
	}
	return v, nil
}

// verifyFor bounds one run.
const verifyFor = 40 * time.Minute

// A finding about Stripe's meters is over once Stripe shows all that it accepted.
const resolveMeterErrorsSQL = `
update audit_findings
set resolved_at = $1,
    resolved_by = 'verify',
    resolution = 'all that was accepted is shown'
where kind = 'stripe_meter_error'
  and resolved_at is null`

// eachCompared calls work with the targets and periods that have entries in the
// given states, page by page, until work wants no more.
func (r *Reporter) eachCompared(ctx context.Context, account string, tenant *uuid.UUID, states []State, work func([]*comparedTarget) (more bool, err error)) error {
	last := &comparedTarget{Start: time.Unix(0, 0)}
	for {
		rows, _ := r.Pool.Query(ctx, comparedSQL, r.now().Add(-SummaryDelay), account, r.Stripe.Livemode,
			last.Customer, last.Meter, last.Start, pageSize, states, tenant)
		page, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByName[comparedTarget])
		if err != nil {
			return fmt.Errorf("list what was accepted: %w", err)
		}
		if len(page) == 0 {
			return nil
		}
		last = page[len(page)-1]
		if more, err := work(page); err != nil || !more {
			return err
		}
	}
}

// comparePage compares a page concurrently, and counts the results.
func (r *Reporter) comparePage(ctx context.Context, page []*comparedTarget, v *Verification) error {
	err := concurrently(ctx, maxConcurrentCalls, page, r.compare)
	for _, c := range page {
		v.Compared++
		switch c.result {
		case comparisonEqual:
			v.Equal++
		case comparisonDiffers:
			v.Different++
		default:
			v.Pending++
		}
	}
	return err
}

// The results of comparing one target in one period.
const (
	comparisonEqual   = "equal"
	comparisonDiffers = "different"
	comparisonPending = "unsettled"
)

// compare compares one target in one period and stores what it found.
func (r *Reporter) compare(ctx context.Context, c *comparedTarget) error {
	err := r.compareFigures(ctx, c)
	switch {
	case err != nil:
		return err
	case c.result == comparisonDiffers:
		return r.recordDifference(ctx, c)
	case c.result == comparisonPending && (!c.Final || c.Recent || c.Busy):
		r.Log.Warn("reports cannot be compared with Stripe yet", "customer", c.Customer, "meter", c.Meter, "reason", c.reason)
		return nil
	}
	c.result = comparisonEqual // or nothing is left to find out: the final invoice has decided
	return r.markVerified(ctx, c)
}

// compareFigures reads both sides. Equal is equal at any time; a difference
// counts only when nothing was decided recently and nothing is undecided.
func (r *Reporter) compareFigures(ctx context.Context, c *comparedTarget) (err error) {
	c.result = comparisonPending
	if c.ledger, err = ledgerTotal(ctx, r.Pool, c.MeterTarget, c.period()); err != nil {
		return err
	}
	if c.Busy {
		c.reason = "a report is undecided"
		return nil
	}
	c.stripe, err = r.readSummary(ctx, c.Sink, c.MeterTarget, c.period())
	switch {
	case errors.Is(err, errBreakerOpen):
		c.reason = errBreakerOpen.Error()
	case err != nil && Classify(err, false) == OutcomeConfiguration:
		return fmt.Errorf("%w: %s: check --stripe-api-key", ErrKeyRefused, reason(err))
	case err != nil:
		c.reason = "Stripe's summary cannot be read: " + reason(err)
	case c.stripe == c.ledger:
		c.result = comparisonEqual
	case c.Recent:
		c.reason = "Stripe may still be adding up"
	case c.Final:
		c.reason = "Stripe's summary differs, but the final invoice has decided"
	default:
		c.result = comparisonDiffers
	}
	return nil
}

const markVerifiedSQL = `
update overage_reports
set state = 'verified'
where stripe_customer = $1
  and meter = $2
  and account = $3
  and livemode = $4
  and reported_at >= $5
  and reported_at < $6
  and state = 'accepted'`

const kindDiffers = "stripe_total_differs"

func (c *comparedTarget) subject() string {
	return fmt.Sprintf("%s %s %s", c.Customer, c.Meter, c.Start.UTC().Format(time.RFC3339))
}

func (r *Reporter) markVerified(ctx context.Context, c *comparedTarget) error {
	if _, err := r.Pool.Exec(ctx, markVerifiedSQL, c.Customer, c.Meter, c.Account, c.Livemode, c.Start, c.End); err != nil {
		return fmt.Errorf("mark meter %s of %s as verified: %w", c.Meter, c.Customer, err)
	}
	return findings.Resolve(ctx, r.Pool, kindDiffers, c.subject(), "verify", "Stripe's summary agrees")
}

func (r *Reporter) recordDifference(ctx context.Context, c *comparedTarget) error {
	r.Log.Error("Stripe's summary differs from what it accepted", "tenant", c.Tenant, "customer", c.Customer,
		"meter", c.Meter, "accepted", c.ledger, "shown", c.stripe)
	return findings.Record(ctx, r.Pool, findings.Finding{
		Kind: kindDiffers, Subject: c.subject(), Tenant: c.Tenant, Agent: c.Agent, Period: c.Start,
		Detail: fmt.Sprintf("Stripe accepted %d units on meter %s of customer %s in the period from %s, but its summary shows %d: nothing is sent again; the final invoice decides, and what it lacks or has too much is carried into the next period",
			c.ledger, c.Meter, c.Customer, c.Start.UTC().Format(time.RFC3339), c.stripe),
		Before: &c.stripe, After: &c.ledger, FoundBy: "verify",
	})
}

// StripeCheck is what the ledger and Stripe's own summary say about a
// customer's meter in a period, in units.
type StripeCheck struct {
	Tenant   uuid.UUID
	Agent    string
	Customer string
	Meter    string
	Period   time.Time // its start
	Ledger   int64
	Stripe   int64
	State    string // equal, different or unsettled
	Reason   string // why it is unsettled: not comparable yet
}

// CheckStripe compares all that the ledger holds as accepted with Stripe's
// summaries, and changes nothing. It calls each for every customer's meter and
// period, one after the other.
func (r *Reporter) CheckStripe(ctx context.Context, tenant *uuid.UUID, each func(StripeCheck)) error {
	account, err := r.account(ctx)
	if err != nil {
		return err
	}
	return r.eachCompared(ctx, account, tenant, []State{Accepted, Verified}, func(page []*comparedTarget) (more bool, err error) {
		if err := concurrently(ctx, maxConcurrentCalls, page, r.compareFigures); err != nil {
			return false, err
		}
		for _, c := range page {
			each(StripeCheck{
				Tenant: c.Tenant, Agent: c.Agent, Customer: c.Customer, Meter: c.Meter, Period: c.Start.UTC(),
				Ledger: c.ledger, Stripe: c.stripe, State: c.result, Reason: c.reason,
			})
		}
		return true, nil
	})
}
