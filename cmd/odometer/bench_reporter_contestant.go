package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"odometer/billing"
	"odometer/cmd/internal/app"
	"odometer/cmd/internal/cli"
	"odometer/reporter"
	"odometer/reporter/stripetest"
)

// What a process of the reporter race can be.
const (
	tellRole   = "tell"   // the reporter, as odometer report makes a pass
	stripeRole = "stripe" // the stand-in
)

// tells reports whether the contestant is one of the reporter race.
func (c *contestant) tells() bool { return c.Role == tellRole || c.Role == stripeRole }

// runTelling takes part in the reporter race.
func (c *contestant) runTelling(ctx context.Context, t *cli.Terminal) error {
	if c.Role == stripeRole {
		return c.standIn(ctx, t)
	}
	return c.tell(ctx, t)
}

// benchStripeKey makes the client go as fast as with a key of live mode.
const benchStripeKey = "sk_live_bench"

// standIn is a Stripe with so many customers. It says ready and where it is;
// told go, it says how many units it has.
func (c *contestant) standIn(ctx context.Context, t *cli.Terminal) error {
	stripe := stripetest.New(stripetest.Options{Livemode: true, Latency: tellLatency})
	agents := billing.SampleCatalogue().Agents
	for _, a := range agents {
		stripe.CreateMeter(a.Meter)
	}
	customers := make([]string, c.Messages)
	for i := range customers {
		customers[i] = "cus_" + strconv.Itoa(i+1)
		stripe.CreateCustomer(customers[i], nil)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("start the Stripe stand-in: %w", err)
	}
	fmt.Fprintf(t.Out, "%s\nhttp://%s\n", readyWord, l.Addr())
	ctx, cancel := context.WithCancel(ctx)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return app.Serve(ctx, l, stripe) })
	for words := bufio.NewScanner(os.Stdin); words.Scan(); {
		var units int64
		for _, customer := range customers {
			for _, a := range agents {
				units += stripe.Total(customer, a.Meter, time.Unix(0, 0), time.Now().AddDate(1, 0, 0))
			}
		}
		fmt.Fprintln(t.Out, units)
	}
	cancel()
	return group.Wait()
}

// tell makes a pass, once it is told where Stripe is.
func (c *contestant) tell(ctx context.Context, t *cli.Terminal) error {
	nc, err := nats.Connect(c.NATSURL)
	if err != nil {
		return fmt.Errorf("connect to NATS: %w", err)
	}
	defer nc.Close()
	database := cli.DatabaseSettings{DatabaseURL: c.DatabaseURL}
	pool, err := database.OpenPool(ctx, cli.ReporterConnections)
	if err != nil {
		return err
	}
	defer pool.Close()
	fmt.Fprintln(t.Out, readyWord)
	words := bufio.NewScanner(os.Stdin)
	if !words.Scan() {
		return nil // the races were given up
	}
	settings := app.StripeSettings{StripeAPIKey: benchStripeKey, StripeAPIBase: strings.TrimSpace(words.Text())}
	r, err := settings.Reporter(pool, nc, t.Log, nil)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		words.Scan() // until the races want no more
		cancel()
	}()
	result, err := r.Pass(ctx, reporter.Scope{ByHand: true})
	if err := app.PassError(result, err); err != nil {
		app.PrintPass(t, result)
		return err
	}
	fmt.Fprintln(t.Out, doneWord)
	<-ctx.Done()
	return nil
}
