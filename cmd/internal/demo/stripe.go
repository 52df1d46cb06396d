package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/stripe/stripe-go/v76"

	"odometer"
	"odometer/billing"
	"odometer/cmd/internal/cli"
	"odometer/reporter"
	"odometer/reporter/stripetest"
)

// What the demo's Stripe is known by. It keeps nothing but in memory.
const (
	stripeKey     = "sk_test_demo"
	webhookSecret = "whsec_demo"
)

// How soon things happen that take hours in earnest.
const (
	jobInterval   = time.Second      // jobs that run each minute or hour
	auditInterval = 20 * time.Second // the audit that is daily elsewhere
	closeGrace    = time.Second      // from a period's end to its close
	draftTime     = 5 * time.Second  // from a period's end to its final invoice
	watchedPeriod = 8 * time.Second  // from the start to the end of the period that is watched
)

// startStripe runs a Stripe of our own, with a customer and a subscription for
// every tenant that pays. We learn of them as from Stripe itself: by hooks.
func (d *demo) startStripe(ctx context.Context) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("start the Stripe stand-in: %w", err)
	}
	d.stripe = stripetest.New(stripetest.Options{Key: stripeKey, Account: "acct_demo", DraftTime: draftTime, HookHistory: 100})
	d.stripeURL = "http://" + l.Addr().String()
	server := &http.Server{Handler: d.stripe, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = server.Serve(l) }() // ends with Close
	d.onStop(func() { _ = server.Close() })
	for _, a := range billing.SampleCatalogue().Agents {
		d.stripe.CreateMeter(a.Meter)
	}
	d.stripe.SendHooksTo("http://"+d.options.Addr+"/webhooks/stripe", webhookSecret)
	for _, tenant := range Tenants {
		if tenant.plan == "" {
			continue
		}
		if err := d.createSubscription(ctx, tenant); err != nil {
			return err
		}
	}
	return d.restoreMeterEvents(ctx)
}

// createSubscription makes a tenant's customer and subscription, with the
// period that an earlier run has left.
func (d *demo) createSubscription(ctx context.Context, tenant Tenant) error {
	start, end := tenant.period(time.Now())
	switch known, err := billing.Load(ctx, d.pool, tenant.ID); {
	case err == nil && len(known.Periods) > 0:
		last := known.Periods[len(known.Periods)-1]
		start, end = last.Start, last.End
	case err != nil && !errors.Is(err, billing.ErrNoSubscription):
		return err
	}
	d.stripe.CreateCustomer(tenant.customer(), map[string]string{"tenant_id": tenant.ID.String()})
	items := []stripetest.Item{{PriceID: tenant.plan}}
	for _, a := range billing.SampleCatalogue().Agents {
		items = append(items, stripetest.Item{
			PriceID: "price_" + a.Meter, LookupKey: a.LookupKey, Meter: a.Meter, Metered: true, UnitAmountDecimal: a.UnitPrice.Shift(2).String(),
		})
	}
	d.stripe.CreateSubscription(stripetest.Subscription{
		ID: "sub_" + tenant.slug(), Customer: tenant.customer(), Status: string(tenant.status), Items: items,
		Interval: "month", IntervalCount: 1, Start: start, End: end, Anchor: start,
	})
	return nil
}

// waitForSubscriptions waits until the hooks have brought every subscription:
// what agents do before has no period.
func (d *demo) waitForSubscriptions(ctx context.Context) error {
	for _, tenant := range Tenants {
		err := d.waitFor(ctx, func() (bool, string, error) {
			_, err := billing.Load(ctx, d.pool, tenant.ID)
			if errors.Is(err, billing.ErrNoSubscription) {
				return false, fmt.Sprintf("the subscription of %s has not come from Stripe", tenant.name), nil
			}
			return err == nil, "", err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// advanceStripe lets the stand-in do what is due: roll over, invoice, finalize.
func (d *demo) advanceStripe(ctx context.Context) error {
	for odometer.Sleep(ctx, 200*time.Millisecond) == nil {
		d.stripe.Advance()
	}
	return nil
}

// quietTime is how long the check may wait for a moment in which nobody else
// has anything counted.
const quietTime = 10 * time.Second

// compareStripe compares what Stripe has with the overage. What somebody else
// has counted meanwhile shows in a second comparison; where nothing was,
// a difference is real.
func (d *demo) compareStripe(ctx context.Context) ([]comparison, error) {
	for deadline := time.Now().Add(quietTime); ; {
		before, err := loadCounted(ctx, d.pool)
		if err != nil {
			return nil, err
		}
		compared, err := d.reportToStripe(ctx)
		if err != nil || !slices.ContainsFunc(compared, comparison.differs) {
			return compared, err
		}
		switch after, err := loadCounted(ctx, d.pool); {
		case err != nil:
			return nil, err
		case after.Events == before.Events, time.Now().After(deadline):
			return compared, nil
		}
	}
}

// reportToStripe reports what Stripe does not have yet, and checks that it has
// each unit of overage, once.
func (d *demo) reportToStripe(ctx context.Context) ([]comparison, error) {
	result, err := d.reporting.Reporter.Pass(ctx, reporter.Scope{ByHand: true})
	if err != nil {
		return nil, fmt.Errorf("report the overage to Stripe: %w", err)
	}
	for _, left := range result.Left {
		d.log.Warn("overage is left", "tenant", left.Tenant, "agent", left.Agent, "units", left.Units, "reason", left.Reason)
	}
	var overage, reported int64
	for i := range Tenants {
		err := d.reporting.Reporter.Statement(ctx, &Tenants[i].ID, func(l reporter.Line) {
			overage += l.Overage
			reported += l.Reported
		})
		if err != nil {
			return nil, err
		}
	}
	accepted, err := d.acceptedUnits(ctx)
	if err != nil {
		return nil, err
	}
	return []comparison{
		{"units of overage in periods that are not settled = units reported", overage, reported},
		{"units that Stripe has accepted = units on its meters", accepted, d.meteredUnits()},
	}, nil
}

// acceptedUnits is what the ledger says that Stripe has on its meters of the demo's
// customers.
func (d *demo) acceptedUnits(ctx context.Context) (units int64, err error) {
	err = d.pool.QueryRow(ctx, `
select coalesce(sum(to_total - from_total), 0)::bigint
from overage_reports
where state in ('accepted', 'verified')
  and origin <> 'invoiced'
  and stripe_customer = any($1)`, customers()).Scan(&units)
	if err != nil {
		return 0, fmt.Errorf("add up what Stripe accepted: %w", err)
	}
	return units, nil
}

func customers() (all []string) {
	for i := range Tenants {
		all = append(all, Tenants[i].customer())
	}
	return all
}

// restoreMeterEvents sends a new stand-in what the one of an earlier run received: it keeps
// nothing, and Stripe would have.
func (d *demo) restoreMeterEvents(ctx context.Context) error {
	rows, _ := d.pool.Query(ctx, `
select meter, stripe_customer, to_total - from_total, reported_at, identifier
from overage_reports
where state in ('accepted', 'verified')
  and origin <> 'invoiced'
order by reported_at`)
	account := reporter.NewStripe(stripeKey, d.stripeURL).API
	var meter, customer, identifier string
	var units int64
	var at time.Time
	_, err := pgx.ForEachRow(rows, []any{&meter, &customer, &units, &at, &identifier}, func() error {
		_, err := account.BillingMeterEvents.New(&stripe.BillingMeterEventParams{
			EventName: &meter, Identifier: &identifier, Timestamp: stripe.Int64(at.Unix()),
			Payload: map[string]string{"stripe_customer_id": customer, "value": strconv.FormatInt(units, 10)},
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("send the stand-in the meter events of an earlier run: %w", err)
	}
	return nil
}

// meteredUnits is what this run's Stripe has on its meters.
func (d *demo) meteredUnits() (units int64) {
	for i := range Tenants {
		units += d.meteredOf(&Tenants[i])
	}
	return units
}

// meteredOf is what is on a tenant's meters, in all periods.
func (d *demo) meteredOf(tenant *Tenant) (units int64) {
	if tenant.plan == "" {
		return 0
	}
	for _, a := range billing.SampleCatalogue().Agents {
		units += d.stripe.Total(tenant.customer(), a.Meter, d.began.AddDate(-2, 0, 0), d.began.AddDate(2, 0, 0))
	}
	return units
}

// printInvoices prints the invoices that Stripe has made final during the demo.
func (d *demo) printInvoices() {
	catalogue := billing.SampleCatalogue()
	for _, tenant := range Tenants {
		if tenant.plan == "" {
			continue
		}
		for _, invoice := range d.stripe.Invoices(tenant.customer()) {
			if invoice.Status == "draft" {
				continue
			}
			fmt.Fprintf(d.terminal.Out, "\nStripe's final invoice for %s, %s to %s\n\n", tenant.name,
				invoice.PeriodStart.Format(time.RFC3339), invoice.PeriodEnd.Format(time.RFC3339))
			printInvoice(d.terminal, &catalogue, invoice)
		}
	}
}

func printInvoice(t *cli.Terminal, catalogue *odometer.Catalogue, invoice stripetest.Invoice) {
	var rows []table.Row
	var total int64
	for _, line := range invoice.Lines {
		for _, a := range catalogue.Agents {
			if line.Meter == a.Meter {
				cents := odometer.CostCents(line.Quantity, a.UnitPrice)
				total += cents
				rows = append(rows, table.Row{a.ID + " beyond the plan", line.Quantity, a.UnitPrice, odometer.Money(cents, catalogue.Currency)})
			}
		}
	}
	rows = append(rows, table.Row{"total", "", "", odometer.Money(total, catalogue.Currency)})
	t.Table(table.Row{"usage", "units", "price", "amount"}, rows, 2, 3, 4)
}
