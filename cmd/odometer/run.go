package main

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"odometer/api"
	"odometer/cmd/internal/app"
	"odometer/cmd/internal/cli"
	"odometer/reporter"
)

// Names of the services that run accepts.
const (
	aggregatorService = "aggregator"
	reporterService   = "reporter"
	queryService      = "query"
	ingestService     = "ingest"
)

type runCmd struct {
	Services []string `arg:"" optional:"" enum:"aggregator,reporter,query,ingest" help:"The services to run, of ${enum}; none named: all of them."`

	cli.DatabaseSettings
	cli.NATSSettings
	cli.StreamSettings
	app.ReportingSettings
	StripeWebhookSecret     string `help:"The signing secret of Stripe's webhook endpoint; several separated by commas while one replaces another." env:"ODOMETER_STRIPE_WEBHOOK_SECRET" placeholder:"SECRET"`
	StripeWebhookSecretFile string `help:"A file that holds the secret." env:"ODOMETER_STRIPE_WEBHOOK_SECRET_FILE" placeholder:"FILE"`
	cli.AuthSettings
	JWKSURL string `name:"jwks-url" help:"Where the issuer's keys are, for RS256, ES256 and EdDSA tokens." env:"ODOMETER_JWKS_URL" placeholder:"URL"`

	app.ServiceSettings
}

func (c *runCmd) runs(service string) bool {
	return len(c.Services) == 0 || slices.Contains(c.Services, service)
}

// Run runs the services until the process is signalled. It waits for its
// dependencies as long as it takes; only what waiting cannot heal ends it.
func (c *runCmd) Run(ctx context.Context, t *cli.Terminal) error {
	stream, err := c.StreamConfig()
	if err != nil {
		return err
	}
	if err := c.ServiceSettings.Check(); err != nil {
		return err
	}
	s := app.Services{
		Terminal: t, Registry: app.NewRegistry(), Drift: app.NewDrift(),
		Settings: c.ServiceSettings, MonitorURL: c.NATSMonitorURL, Stream: stream,
		Aggregator: c.runs(aggregatorService), Query: c.runs(queryService), Ingest: c.runs(ingestService),
	}
	if err := c.connectAll(ctx, &s); err != nil {
		return err
	}
	defer s.Close()
	if s.Query || s.Ingest {
		if s.Keys, err = c.keys(ctx, t); err != nil {
			return err
		}
	}
	if c.runs(reporterService) {
		if err := c.addReporting(&s); err != nil {
			return err
		}
	}
	return s.Run(ctx)
}

// connectAll opens what the services need: ingest alone needs no Postgres, and
// query alone no NATS.
func (c *runCmd) connectAll(ctx context.Context, s *app.Services) error {
	if s.Aggregator || s.Query || c.runs(reporterService) {
		// One each for the partitions, the jobs' and the reporter's.
		config, err := c.PoolConfig(int32(c.Partitions + 16))
		if err != nil {
			return err
		}
		if s.Pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
			return cli.Usagef("--database-url: %w", err)
		}
		if s.ReadPool, err = app.NewReadPool(ctx, config); err != nil {
			return err
		}
	}
	if s.Aggregator || s.Ingest || c.runs(reporterService) {
		var err error
		if s.NATS, err = c.Connect("run", true); err != nil {
			s.Close()
			return err
		}
	}
	return nil
}

// addReporting sets the service reporter up.
func (c *runCmd) addReporting(s *app.Services) (err error) {
	metrics := reporter.NewMetrics(s.Registry)
	if s.Reporting, err = c.Reporting(s.Terminal, s.Pool, s.NATS, time.Duration(c.EventRetention), metrics); err != nil {
		return err
	}
	s.Reporting.OnDrift = func(counters int64) { s.Drift.Set(float64(counters)) }
	if s.WebhookSecret, err = cli.Secret("stripe-webhook-secret", c.StripeWebhookSecret, c.StripeWebhookSecretFile); err != nil {
		return err
	}
	if s.WebhookSecret != "" && s.Reporting.Sync == nil {
		return cli.Usagef("--stripe-webhook-secret is set, but a hook is only a hint to fetch what it names: give --stripe-api-key too")
	}
	return nil
}

// keys are those that the settings name: a secret, or an issuer's set.
func (c *runCmd) keys(ctx context.Context, t *cli.Terminal) (*api.Keys, error) {
	key, err := cli.Secret("jwt-secret", c.JWTSecret, c.JWTSecretFile)
	expect := api.Expect{Issuer: c.JWTIssuer, Audience: c.JWTAudience}
	switch {
	case err != nil:
		return nil, err
	case key != "" && c.JWKSURL != "":
		return nil, cli.Usagef("--jwt-secret and --jwks-url are both given: give one")
	case c.JWKSURL != "":
		keys, err := api.KeysFromURL(ctx, c.JWKSURL, expect, t.Log)
		if err != nil {
			return nil, cli.UsageError{Err: err}
		}
		return keys, nil
	case key == "":
		return nil, cli.Usagef("neither --jwt-secret nor --jwks-url is set: give one of the flags, or ODOMETER_JWT_SECRET or ODOMETER_JWKS_URL; the API does not run without authentication")
	}
	cli.WarnIfWeak(t, key)
	keys, err := api.KeysFromSecret([]byte(key), expect)
	if err != nil {
		return nil, cli.UsageError{Err: err}
	}
	return keys, nil
}
