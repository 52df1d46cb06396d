package main

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
	"odometer/reporter"
	"odometer/reporter/stripetest"
)

// What the demo's Stripe is known by. It keeps nothing but in memory.
const (
	demoStripeKey  = "sk_test_demo"
	demoHookSecret = "whsec_demo"
)

// How soon things happen that take hours in earnest.
const (
	demoRhythm = time.Second      // jobs that run each minute or hour
	demoAudits = 20 * time.Second // the audit that is daily elsewhere
	demoGrace  = time.Second      // from a period's end to its close
	demoDraft  = 5 * time.Second  // from a period's end to its final invoice
	demoPeriod = 8 * time.Second  // from the start to the end of the period that is watched
)

// startStripe runs a Stripe of our own, with a customer and a subscription for
// every tenant that pays. We learn of them as from Stripe itself: by hooks.
func (d *demo) startStripe(ctx context.Context) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("start the Stripe stand-in: %w", err)
	}
	d.stripe = stripetest.New(stripetest.Options{Key: demoStripeKey, Account: "acct_demo", DraftTime: demoDraft, HookHistory: 100})
	d.stripeURL = "http://" + l.Addr().String()
	server := &http.Server{Handler: d.stripe, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = server.Serve(l) }() // ends with Close
	d.atStop(func() { _ = server.Close() })
	for _, a := range billing.SampleCatalogue().Agents {
		d.stripe.CreateMeter(a.Meter)
	}
	d.stripe.SendHooksTo("http://"+d.Addr+"/webhooks/stripe", demoHookSecret)
	for _, tenant := range demoTenants {
		if tenant.plan == "" {
			continue
		}
		if err := d.createSubscription(ctx, tenant); err != nil {
			return err
		}
	}
	return d.remind(ctx)
}

// createSubscription makes a tenant's customer and subscription, with the
// period that an earlier run has left.
func (d *demo) createSubscription(ctx context.Context, tenant demoTenant) error {
	start, end := tenant.period(time.Now())
	switch known, err := billing.Load(ctx, d.pool, tenant.id); {
	case err == nil && len(known.Periods) > 0:
		last := known.Periods[len(known.Periods)-1]
		start, end = last.Start, last.End
	case err != nil && !errors.Is(err, billing.ErrNoSubscription):
		return err
	}
	d.stripe.CreateCustomer(tenant.customer(), map[string]string{"tenant_id": tenant.id.String()})
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

// awaitSubscriptions waits until the hooks have brought every subscription:
// what agents do before has no period.
func (d *demo) awaitSubscriptions(ctx context.Context) error {
	deadline := time.Now().Add(settleTime)
	for _, tenant := range demoTenants {
		for {
			_, err := billing.Load(ctx, d.pool, tenant.id)
			if err == nil {
				break
			}
			if !errors.Is(err, billing.ErrNoSubscription) {
				return err
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("the subscription of %s has not come from Stripe after %s: look into %s/odometer.log", tenant.name, settleTime, d.dir)
			}
			if err := pauseFor(ctx, 20*time.Millisecond); err != nil {
				return err
			}
		}
	}
	return nil
}

// passTime lets the stand-in do what is due: roll over, invoice, finalize.
func (d *demo) passTime(ctx context.Context) error {
	for pauseFor(ctx, 200*time.Millisecond) == nil {
		d.stripe.Advance()
	}
	return nil
}

// othersTime is how long the check may wait for a moment in which nobody else
// has anything counted.
const othersTime = 10 * time.Second

// compareStripe compares what Stripe has with the overage. What somebody else
// has counted meanwhile is told by another look; where nothing was, a
// difference is one.
func (d *demo) compareStripe(ctx context.Context) ([]comparison, error) {
	for deadline := time.Now().Add(othersTime); ; {
		before, err := loadStanding(ctx, d.pool)
		if err != nil {
			return nil, err
		}
		told, err := d.tellStripe(ctx)
		if err != nil || !slices.ContainsFunc(told, comparison.differs) {
			return told, err
		}
		switch after, err := loadStanding(ctx, d.pool); {
		case err != nil:
			return nil, err
		case after.Events == before.Events, time.Now().After(deadline):
			return told, nil
		}
	}
}

// tellStripe tells Stripe what it does not know yet, and looks whether it has
// each unit of overage, once.
func (d *demo) tellStripe(ctx context.Context) ([]comparison, error) {
	result, err := d.reporting.reporter.Pass(ctx, reporter.Scope{ByHand: true})
	if err != nil {
		return nil, fmt.Errorf("tell Stripe the overage: %w", err)
	}
	for _, left := range result.Left {
		d.log.Warn("overage is left", "tenant", left.Tenant, "agent", left.Agent, "units", left.Units, "reason", left.Reason)
	}
	var overage, told int64
	for i := range demoTenants {
		err := d.reporting.reporter.Statement(ctx, &demoTenants[i].id, func(l reporter.Line) {
			overage += l.Overage
			told += l.Reported
		})
		if err != nil {
			return nil, err
		}
	}
	accepted, err := d.accepted(ctx)
	if err != nil {
		return nil, err
	}
	return []comparison{
		{"units of overage in periods that are not settled = units told", overage, told},
		{"units that Stripe has accepted = units on its meters", accepted, d.metered()},
	}, nil
}

// accepted is what the ledger says that Stripe has on its meters of the demo's
// customers.
func (d *demo) accepted(ctx context.Context) (units int64, err error) {
	err = d.pool.QueryRow(ctx, `
select coalesce(sum(to_total - from_total), 0)::bigint
from overage_reports
where state in ('accepted', 'verified')
  and origin <> 'invoiced'
  and stripe_customer = any($1)`, demoCustomers()).Scan(&units)
	if err != nil {
		return 0, fmt.Errorf("add up what Stripe accepted: %w", err)
	}
	return units, nil
}

func demoCustomers() (all []string) {
	for i := range demoTenants {
		all = append(all, demoTenants[i].customer())
	}
	return all
}

// remind tells a new stand-in what the one of an earlier run was told: it keeps
// nothing, and Stripe would have.
func (d *demo) remind(ctx context.Context) error {
	rows, _ := d.pool.Query(ctx, `
select meter, stripe_customer, to_total - from_total, reported_at, identifier
from overage_reports
where state in ('accepted', 'verified')
  and origin <> 'invoiced'
order by reported_at`)
	account := reporter.NewStripe(demoStripeKey, d.stripeURL).API
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
		return fmt.Errorf("tell the stand-in what it knew: %w", err)
	}
	return nil
}

// metered is what this run's Stripe has on its meters.
func (d *demo) metered() (units int64) {
	for i := range demoTenants {
		units += d.told(&demoTenants[i])
	}
	return units
}

// told is what is on a tenant's meters, in all periods.
func (d *demo) told(tenant *demoTenant) (units int64) {
	if tenant.plan == "" {
		return 0
	}
	for _, a := range billing.SampleCatalogue().Agents {
		units += d.stripe.Total(tenant.customer(), a.Meter, d.began.AddDate(-2, 0, 0), d.began.AddDate(2, 0, 0))
	}
	return units
}

// bill prints the invoices that Stripe has made final during the demo.
func (d *demo) bill() {
	catalogue := billing.SampleCatalogue()
	for _, tenant := range demoTenants {
		if tenant.plan == "" {
			continue
		}
		for _, invoice := range d.stripe.Invoices(tenant.customer()) {
			if invoice.Status == "draft" {
				continue
			}
			fmt.Fprintf(d.t.out, "\nStripe's final invoice for %s, %s to %s\n\n", tenant.name,
				invoice.PeriodStart.Format(time.RFC3339), invoice.PeriodEnd.Format(time.RFC3339))
			printInvoice(d.t, &catalogue, invoice)
		}
	}
}

func printInvoice(t *terminal, catalogue *odometer.Catalogue, invoice stripetest.Invoice) {
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
	t.table(table.Row{"usage", "units", "price", "amount"}, rows, 2, 3, 4)
}
