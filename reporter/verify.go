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

// Verification is what a comparison with Stripe's summaries came to, in
// customers' meters and periods.
type Verification struct {
	Compared  int  `json:"compared"`
	Equal     int  `json:"equal"`
	Different int  `json:"different"`
	Unsettled int  `json:"unsettled"` // Stripe may still be adding up, or did not answer
	Released  bool `json:"released"`  // a reporter that had stopped may go on
	Appended  int  `json:"appended"`  // links that Stripe had beyond the ledger
}

// compared is a target in a period, as the ledger has it.
type compared struct {
	Tenant  uuid.UUID
	Agent   string
	Start   time.Time
	End     time.Time
	Sink    Sink
	Account string
	Live    bool
	Who     string
	Meter   string
	Recent  bool // something was decided so lately that the summary may lack it
	Busy    bool // something is undecided
	Final   bool // the period's final invoice was read: it has decided
}

func (c *compared) target() Target {
	return Target{Account: c.Account, Livemode: c.Live, Customer: c.Who, Meter: c.Meter}
}

func (c *compared) period() *period { return &period{start: c.Start.UTC(), end: c.End.UTC()} }

const comparedSQL = `
select
    p.tenant_id as tenant,
    min(r.agent) as agent,
    p.period_start as start,
    p.period_end as end,
    min(r.sink) as sink,
    r.account,
    r.livemode as live,
    r.stripe_customer as who,
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
        where i.tenant_id = p.tenant_id and i.period_start = p.period_start and i.fixed_at is not null
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
// have had SettleAfter to do so. What is equal is verified; what differs
// becomes a finding and is never sent again silently: the period's final
// invoice decides. A reporter that stopped because of a restored backup is
// compared first, and released.
//
// Passes may run beside the comparison: what they change meanwhile is not
// settled. At Stripe's rate for summaries many customers take more than
// verifyFor; the next run goes on.
func (r *Reporter) Verify(ctx context.Context, byHand bool) (Verification, error) {
	var v Verification
	if r.Sink == DryRun {
		return v, nil
	}
	account, err := r.account(ctx)
	if err != nil {
		return v, err
	}
	if err := r.release(ctx, account, byHand, &v); err != nil {
		return v, err
	}
	last := compared{Start: time.Unix(0, 0)}
	for began := time.Now(); time.Since(began) < verifyFor; {
		page, err := r.toCompare(ctx, account, nil, []State{Taken}, last)
		if err != nil {
			return v, err
		}
		if len(page) == 0 {
			return v, r.allEqual(ctx, &v)
		}
		last = page[len(page)-1]
		if err := r.comparePage(ctx, page, &v); err != nil {
			return v, err
		}
	}
	return v, nil
}

// verifyFor bounds one run.
const verifyFor = 40 * time.Minute

const resolveMeterErrorsSQL = `
update audit_findings
set resolved_at = $1,
    resolved_by = 'verify',
    resolution = 'all that was accepted is shown'
where kind = 'stripe_meter_error'
  and resolved_at is null`

// allEqual resolves what Stripe complained of, once everything is there.
func (r *Reporter) allEqual(ctx context.Context, v *Verification) error {
	if v.Different > 0 || v.Unsettled > 0 {
		return nil
	}
	if _, err := r.Pool.Exec(ctx, resolveMeterErrorsSQL, r.now()); err != nil {
		return fmt.Errorf("resolve errors of meters: %w", err)
	}
	return nil
}

// toCompare lists the next targets and periods with links of the given states.
func (r *Reporter) toCompare(ctx context.Context, account string, tenant *uuid.UUID, states []State, last compared) ([]compared, error) {
	rows, _ := r.Pool.Query(ctx, comparedSQL, r.now().Add(-SettleAfter), account, r.Stripe.Livemode,
		last.Who, last.Meter, last.Start, pageSize, states, tenant)
	page, err := pgx.CollectRows(rows, pgx.RowToStructByName[compared])
	if err != nil {
		return nil, fmt.Errorf("list what was accepted: %w", err)
	}
	return page, nil
}

// comparePage compares side by side.
func (r *Reporter) comparePage(ctx context.Context, page []compared, v *Verification) error {
	outcomes := make([]outcome, len(page))
	group, asking := errgroup.WithContext(ctx)
	group.SetLimit(maxUnderWay)
	for i := range page {
		group.Go(func() (err error) {
			outcomes[i], err = r.compare(asking, &page[i])
			return err
		})
	}
	err := group.Wait()
	for _, o := range outcomes {
		v.Compared++
		switch o {
		case equal:
			v.Equal++
		case different:
			v.Different++
		default:
			v.Unsettled++
		}
	}
	return err
}

// outcome is what a comparison says.
type outcome int

const (
	unsettled outcome = iota
	equal
	different
)

// compare compares one target in one period and writes down what it found.
func (r *Reporter) compare(ctx context.Context, c *compared) (outcome, error) {
	f, err := r.figures(ctx, c)
	switch {
	case err != nil:
		return unsettled, err
	case f.outcome == equal:
		return equal, r.verified(ctx, c)
	case f.outcome == different:
		return different, r.differs(ctx, c, f.should, f.shown)
	}
	if c.Final && !c.Recent && !c.Busy {
		return equal, r.verified(ctx, c) // nothing is left to be found out
	}
	if f.why != "" {
		r.Log.Warn("what Stripe was told cannot be compared yet", "customer", c.Who, "meter", c.Meter, "why", f.why)
	}
	return unsettled, nil
}

// figures are both sides of a comparison.
type figures struct {
	should, shown int64
	outcome       outcome
	why           string // of what is unsettled
}

// figures reads both sides. Equal is equal at any time; a difference counts
// only when nothing is recent or under way.
func (r *Reporter) figures(ctx context.Context, c *compared) (f figures, err error) {
	if f.should, err = metered(ctx, r.Pool, c.target(), c.period()); err != nil {
		return f, err
	}
	if c.Busy {
		f.why = "a report is undecided"
		return f, nil
	}
	f.shown, err = r.askFor(ctx, c)
	switch {
	case errors.Is(err, errOpen):
		f.why = errOpen.Error()
	case err != nil && Judge(err, false) == Configuration:
		return f, fmt.Errorf("%w: %s: check --stripe-api-key", ErrKeyRefused, reason(err))
	case err != nil:
		f.why = "Stripe's summary cannot be read: " + reason(err)
	case f.shown == f.should:
		f.outcome = equal
	case c.Recent:
		f.why = "Stripe may still be adding up"
	case c.Final:
		f.why = "Stripe's summary differs, but the final invoice has decided"
	default:
		f.outcome = different
	}
	return f, nil
}

func (r *Reporter) askFor(ctx context.Context, c *compared) (shown int64, err error) {
	err = r.asking.do(c.Who, func() (err error) {
		shown, err = r.shown(ctx, c.Sink, c.target(), c.period())
		return err
	})
	return shown, err
}

const verifiedSQL = `
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

func (c *compared) subject() string {
	return fmt.Sprintf("%s %s %s", c.Who, c.Meter, c.Start.UTC().Format(time.RFC3339))
}

func (r *Reporter) verified(ctx context.Context, c *compared) error {
	t, in := c.target(), c.period()
	if _, err := r.Pool.Exec(ctx, verifiedSQL, t.Customer, t.Meter, t.Account, t.Livemode, in.start, in.end); err != nil {
		return fmt.Errorf("mark meter %s of %s as verified: %w", t.Meter, t.Customer, err)
	}
	return findings.Resolve(ctx, r.Pool, kindDiffers, c.subject(), "verify", "Stripe's summary agrees")
}

func (r *Reporter) differs(ctx context.Context, c *compared, should, shown int64) error {
	r.Log.Error("Stripe's summary differs from what it accepted", "tenant", c.Tenant, "customer", c.Who,
		"meter", c.Meter, "accepted", should, "shown", shown)
	return findings.Record(ctx, r.Pool, findings.Finding{
		Kind: kindDiffers, Subject: c.subject(), Tenant: c.Tenant, Agent: c.Agent, Period: c.Start,
		Detail: fmt.Sprintf("Stripe accepted %d units on meter %s of customer %s in the period from %s, but its summary shows %d: nothing is sent again; the final invoice decides, and what it lacks or has too much is carried into the next period",
			should, c.Meter, c.Who, c.Start.UTC().Format(time.RFC3339), shown),
		Before: &shown, After: &should, FoundBy: "verify",
	})
}
