package app

import (
	"log/slog"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"odometer/cmd/internal/cli"
	"odometer/reporter"
)

// StripeSettings say how usage is reported to Stripe.
type StripeSettings struct {
	StripeAPIKey     string        `name:"stripe-api-key" help:"The secret or restricted key of the Stripe account." env:"ODOMETER_STRIPE_API_KEY" placeholder:"KEY"`
	StripeAPIKeyFile string        `name:"stripe-api-key-file" help:"A file that holds the key." env:"ODOMETER_STRIPE_API_KEY_FILE" placeholder:"FILE"`
	StripeAPIBase    string        `name:"stripe-api-base" help:"Another address than Stripe's own, for a proxy or a stand-in." env:"ODOMETER_STRIPE_API_BASE" placeholder:"URL"`
	StripeSink       string        `name:"stripe-sink" help:"How usage is reported to Stripe: meter_events, usage_records or dry_run; by default meter_events with a key and dry_run without." enum:",meter_events,usage_records,dry_run" default:"" env:"ODOMETER_STRIPE_SINK"`
	BreakerCooldown  time.Duration `help:"How long no call goes to Stripe after five customers failed in a row." default:"15m" env:"ODOMETER_BREAKER_COOLDOWN"`
}

// Account is Stripe as the settings name it, nil without a key, and the sink.
func (s *StripeSettings) Account() (*reporter.Stripe, reporter.Sink, error) {
	key, err := cli.Secret("stripe-api-key", s.StripeAPIKey, s.StripeAPIKeyFile)
	if err != nil {
		return nil, "", err
	}
	sink := reporter.Sink(s.StripeSink)
	switch {
	case sink == "" && key == "":
		sink = reporter.DryRun
	case sink == "":
		sink = reporter.MeterEvents
	}
	if base, err := url.Parse(s.StripeAPIBase); err != nil || s.StripeAPIBase != "" && (base.Scheme == "" || base.Host == "") {
		return nil, "", cli.Usagef("--stripe-api-base %q: want a URL as http://127.0.0.1:12111", s.StripeAPIBase)
	}
	switch {
	case key != "":
		return reporter.NewStripe(key, s.StripeAPIBase), sink, nil
	case sink == reporter.DryRun:
		return nil, sink, nil
	default:
		return nil, "", cli.Missing("stripe-api-key")
	}
}

// Reporter builds the reporter that the settings describe; nc may be nil with
// the sink dry_run.
func (s *StripeSettings) Reporter(pool *pgxpool.Pool, nc *nats.Conn, log *slog.Logger, metrics *reporter.Metrics) (*reporter.Reporter, error) {
	stripe, sink, err := s.Account()
	if err != nil {
		return nil, err
	}
	options := reporter.Options{
		Pool: pool, Stripe: stripe, Sink: sink, BreakerCooldown: s.BreakerCooldown, Log: log, Metrics: metrics,
	}
	if nc != nil {
		if options.NATS, err = jetstream.New(nc); err != nil {
			return nil, err
		}
	}
	return reporter.New(options)
}
