package reporter

import (
	"context"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
)

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
	Reason   string // why it is unsettled
}

// CheckStripe compares all that the ledger holds as accepted with Stripe's
// summaries, and changes nothing. It calls each for every customer's meter and
// period, one at a time.
func (r *Reporter) CheckStripe(ctx context.Context, tenant *uuid.UUID, each func(StripeCheck)) error {
	account, err := r.account(ctx)
	if err != nil {
		return err
	}
	last := compared{Start: time.Unix(0, 0)}
	for {
		page, err := r.toCompare(ctx, account, tenant, []State{Taken, Verified}, last)
		if err != nil || len(page) == 0 {
			return err
		}
		last = page[len(page)-1]
		checks, err := r.checkPage(ctx, page)
		if err != nil {
			return err
		}
		for _, c := range checks {
			each(c)
		}
	}
}

func (r *Reporter) checkPage(ctx context.Context, page []compared) ([]StripeCheck, error) {
	checks := make([]StripeCheck, len(page))
	group, asking := errgroup.WithContext(ctx)
	group.SetLimit(maxUnderWay)
	for i := range page {
		group.Go(func() error {
			c := &page[i]
			f, err := r.figures(asking, c)
			checks[i] = StripeCheck{
				Tenant: c.Tenant, Agent: c.Agent, Customer: c.Who, Meter: c.Meter, Period: c.Start.UTC(),
				Ledger: f.should, Stripe: f.shown, State: f.outcome.String(), Reason: f.why,
			}
			return err
		})
	}
	return checks, group.Wait()
}

// String names the outcome as people read it.
func (o outcome) String() string {
	switch o {
	case equal:
		return "equal"
	case different:
		return "different"
	default:
		return "unsettled"
	}
}
