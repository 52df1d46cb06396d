package audit

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// StripeCheck is what the ledger and Stripe's own summary say about a
// customer's meter in a period, in units.
type StripeCheck struct {
	Tenant      uuid.UUID
	Agent       string
	Customer    string
	Meter       string
	PeriodStart time.Time
	Ledger      int64
	Stripe      int64
	State       string // equal, different or unsettled
	Reason      string // why it is unsettled
}

// compareStripe compares the ledger with Stripe.
func (a *auditor) compareStripe(ctx context.Context) error {
	if a.Stripe == nil {
		a.report.note("ledger and Stripe: unknown: no Stripe key: give --stripe-api-key to compare them")
		return nil
	}
	a.step("ledger and Stripe")
	if err := a.Stripe(ctx, a.Tenant, a.compareMeter); err != nil {
		return fmt.Errorf("compare ledger and Stripe: %w", err)
	}
	return nil
}

func (a *auditor) compareMeter(c StripeCheck) {
	switch c.State {
	case "equal":
		a.report.equal(ledgerStripe, 1)
		return
	case "different":
	default:
		a.report.unsettled(ledgerStripe, 1, c.Reason)
		return
	}
	tenant, period := c.Tenant, c.PeriodStart.UTC()
	d := Difference{
		Kind: StripeDiffers, Tenant: &tenant, Agent: c.Agent, Period: &period,
		Where:    fmt.Sprintf("customer %s, meter %s", c.Customer, c.Meter),
		Expected: fmt.Sprintf("%d, as the ledger has it", c.Ledger), Found: fmt.Sprintf("%d in Stripe's summary", c.Stripe),
		Cause:  "something else reported to this meter, or a row of the ledger was lost",
		Repair: byHand("no repair is defined: nothing is sent again; the final invoice decides and what it has too much is carried into the next period. After a restored backup: odometer jobs run verify"),
	}
	if c.Stripe < c.Ledger {
		d.Cause = "Stripe dropped a report after it was accepted, or a row of the ledger was added by hand"
		d.Repair = byHand("no repair is defined: nothing is sent again; the final invoice decides and what it lacks is carried into the next period")
	}
	a.report.differs(ledgerStripe, d)
}
