package main

import (
	"context"
	"os"
	"runtime/debug"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"odometer/aggregator"
	"odometer/api"
	"odometer/audit"
	"odometer/cmd/internal/jobs"
	"odometer/ingest"
	"odometer/query/web"
	"odometer/reporter"
	"odometer/reporter/alerts"
)

// Names of the services that run can be told.
const (
	aggregatorService = "aggregator"
	reporterService   = "reporter"
	queryService      = "query"
	ingestService     = "ingest"
)

type runCmd struct {
	Services []string `arg:"" optional:"" enum:"aggregator,reporter,query,ingest" help:"The services to run, of ${enum}; none named: all of them."`

	databaseSettings
	natsSettings
	streamSettings
	reportingSettings
	StripeWebhookSecret     string `help:"The signing secret of Stripe's webhook endpoint; several separated by commas while one replaces another." env:"ODOMETER_STRIPE_WEBHOOK_SECRET" placeholder:"SECRET"`
	StripeWebhookSecretFile string `help:"A file that holds the secret." env:"ODOMETER_STRIPE_WEBHOOK_SECRET_FILE" placeholder:"FILE"`
	authSettings
	JWKSURL string `name:"jwks-url" help:"Where the issuer's keys are, for RS256, ES256 and EdDSA tokens." env:"ODOMETER_JWKS_URL" placeholder:"URL"`

	HTTPAddr  string `name:"http-addr" default:"127.0.0.1:8080" help:"Where the API listens." env:"ODOMETER_HTTP_ADDR"`
	OpsAddr   string `default:"127.0.0.1:9090" help:"Where /metrics, /healthz and /readyz listen." env:"ODOMETER_OPS_ADDR"`
	BatchSize int    `default:"5000" help:"Messages that one transaction counts at most." env:"ODOMETER_BATCH_SIZE"`
	originSettings
	UsageRequestsPerMinute int  `default:"10" help:"Requests for usage that a tenant may make in a minute; 0 for no limit." env:"ODOMETER_USAGE_REQUESTS_PER_MINUTE"`
	MetricsPerTenant       bool `help:"Label metrics by tenant: a series for each." env:"ODOMETER_METRICS_PER_TENANT"`
}

func (c *runCmd) runs(service string) bool {
	return len(c.Services) == 0 || slices.Contains(c.Services, service)
}

// Run runs the services until the process is told to stop. It waits for its
// dependencies as long as it takes; only what waiting cannot heal ends it.
func (c *runCmd) Run(ctx context.Context, t *terminal) error {
	stream, err := c.streamConfig()
	if err != nil {
		return err
	}
	if c.UsageRequestsPerMinute < 0 {
		return usagef("--usage-requests-per-minute %d: want 1 or more, or 0 for no limit", c.UsageRequestsPerMinute)
	}
	if c.BatchSize < 1 || c.BatchSize > 50_000 {
		return usagef("--batch-size %d: want 1 to 50000", c.BatchSize)
	}
	if err := c.checkOrigins(); err != nil {
		return err
	}
	s := services{
		t: t, registry: newRegistry(), drift: newDrift(),
		httpAddr: c.HTTPAddr, opsAddr: c.OpsAddr, monitorURL: c.NATSMonitorURL,
		aggregates: c.runs(aggregatorService), answers: c.runs(queryService), ingests: c.runs(ingestService),
		stream: stream, batchSize: c.BatchSize, metricsPerTenant: c.MetricsPerTenant,
		requestsPerMinute: c.UsageRequestsPerMinute, origins: c.CORSOrigins,
	}
	if err := c.connectAll(ctx, &s); err != nil {
		return err
	}
	defer s.disconnect()
	if s.answers || s.ingests {
		if s.keys, err = c.keys(ctx, t); err != nil {
			return err
		}
	}
	if c.runs(reporterService) {
		if err := c.addReporting(&s); err != nil {
			return err
		}
	}
	return s.run(ctx)
}

// connectAll opens what the services need: ingest alone needs no Postgres, and
// query alone no NATS.
func (c *runCmd) connectAll(ctx context.Context, s *services) error {
	if s.aggregates || s.answers || c.runs(reporterService) {
		// One each for the partitions, the jobs' and the reporter's.
		config, err := c.poolConfig(int32(c.Partitions + 16))
		if err != nil {
			return err
		}
		if s.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
			return usagef("--database-url: %w", err)
		}
		if s.readers, err = readerPool(ctx, config); err != nil {
			return err
		}
	}
	if s.aggregates || s.ingests || c.runs(reporterService) {
		var err error
		if s.nats, err = c.connect("run", true); err != nil {
			s.disconnect()
			return err
		}
	}
	return nil
}

// disconnect closes what connectAll has opened.
func (s *services) disconnect() {
	if s.nats != nil {
		s.nats.Close()
	}
	if s.pool != nil {
		s.pool.Close()
		s.readers.Close()
	}
}

// readerConnections are the API's: more than the reads of many events may hold
// at once, so that the usage of the moment is always answered.
const readerConnections = 24

// readerPool is the API's, beside the pool of a configuration.
func readerPool(ctx context.Context, config *pgxpool.Config) (*pgxpool.Pool, error) {
	config = config.Copy()
	config.MaxConns = readerConnections
	return pgxpool.NewWithConfig(ctx, config)
}

// addReporting sets the service reporter up.
func (c *runCmd) addReporting(s *services) (err error) {
	metrics := reporter.NewMetrics(s.registry)
	if s.reporting, err = c.reporting(s.t, s.pool, s.nats, time.Duration(c.EventRetention), metrics); err != nil {
		return err
	}
	s.reporting.drifted = func(counters int64) { s.drift.Set(float64(counters)) }
	if s.hookSecret, err = secret("stripe-webhook-secret", c.StripeWebhookSecret, c.StripeWebhookSecretFile); err != nil {
		return err
	}
	if s.hookSecret != "" && s.reporting.sync == nil {
		return usagef("--stripe-webhook-secret is set, but a hook is only a hint to fetch what it names: give --stripe-api-key too")
	}
	return nil
}

// keys are those that the settings name: a secret, or an issuer's set.
func (c *runCmd) keys(ctx context.Context, t *terminal) (*api.Keys, error) {
	key, err := secret("jwt-secret", c.JWTSecret, c.JWTSecretFile)
	expect := api.Expect{Issuer: c.JWTIssuer, Audience: c.JWTAudience}
	switch {
	case err != nil:
		return nil, err
	case key != "" && c.JWKSURL != "":
		return nil, usagef("--jwt-secret and --jwks-url are both given: give one")
	case c.JWKSURL != "":
		keys, err := api.KeysFromURL(ctx, c.JWKSURL, expect, t.log)
		if err != nil {
			return nil, usageError{err}
		}
		return keys, nil
	case key == "":
		return nil, usagef("neither --jwt-secret nor --jwks-url is set: give one of the flags, or ODOMETER_JWT_SECRET or ODOMETER_JWKS_URL; the API does not run without authentication")
	}
	warnOfWeak(t, key)
	keys, err := api.KeysFromSecret([]byte(key), expect)
	if err != nil {
		return nil, usageError{err}
	}
	return keys, nil
}

// services are the parts of the program that run until they are told to stop.
type services struct {
	t        *terminal
	pool     *pgxpool.Pool // nil for ingest alone
	readers  *pgxpool.Pool // of the API alone, so that who reads much stops nobody from counting
	nats     *nats.Conn    // nil for query alone
	registry *prometheus.Registry
	drift    prometheus.Gauge

	httpAddr, opsAddr string
	monitorURL        string
	aggregates        bool
	answers           bool // reads, and shows pages
	ingests           bool // takes events over HTTP
	stream            ingest.StreamConfig
	batchSize         int
	metricsPerTenant  bool
	keys              *api.Keys // nil where no service asks for tokens
	origins           []string  // of pages that may read answers
	requestsPerMinute int
	synced            bool // NATS is known to sync before it acknowledges

	reporting  *reporting                                   // nil without the reporter service
	hookSecret string                                       // "" takes no hooks
	jobsEvery  time.Duration                                // another rhythm than the table's, for the demo
	auditEvery time.Duration                                // likewise for the job reconcile, which is daily
	sessions   func(context.Context) ([]web.Session, error) // mints the demo's tokens; nil elsewhere
}

func newDrift() prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "usage_counter_drift",
		Help: "Counters that were not the sum of their events when they were last audited.",
	})
}

func (s *services) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	ops, err := listen(s.opsAddr, "ops-addr")
	if err != nil {
		return err
	}
	if s.pool != nil {
		s.registry.MustRegister(reporter.NewCollector(s.pool, s.metricsPerTenant, s.t.log), s.drift)
	}
	received := make(chan struct{}, 1)
	handler, err := s.httpHandler(received)
	if err != nil {
		return err
	}
	if handler != nil {
		api, err := listen(s.httpAddr, "http-addr")
		if err != nil {
			return err
		}
		group.Go(func() error { return serve(ctx, api, handler) })
		s.t.log.Info("the API listens", "addr", api.Addr().String())
	}
	group.Go(func() error { return serve(ctx, ops, s.opsHandler()) })
	var metrics *aggregator.Metrics
	var watch *audit.Monitor
	if s.aggregates {
		metrics = aggregator.NewMetrics(s.registry, s.metricsPerTenant)
		js, err := jetstream.New(s.nats)
		if err != nil {
			return err
		}
		watch = audit.NewMonitor(s.pool, js, s.t.log, s.registry)
	}
	group.Go(func() error {
		working, ctx := errgroup.WithContext(ctx)
		if s.ingests {
			working.Go(func() error { return s.keepStream(ctx) })
		}
		if s.pool == nil {
			return working.Wait()
		}
		if err := s.waitForSchema(ctx); err != nil {
			return err
		}
		if s.aggregates {
			working.Go(func() error { return s.aggregate(ctx, metrics) })
			working.Go(func() error { return watch.Run(ctx) })
		}
		if s.reporting != nil {
			working.Go(func() error { return s.report(ctx, received) })
		}
		return working.Wait()
	})
	return group.Wait()
}

// report runs the jobs, and works off Stripe's hooks as they come.
func (s *services) report(ctx context.Context, received <-chan struct{}) error {
	group, ctx := errgroup.WithContext(ctx)
	if s.reporting.sync != nil {
		group.Go(func() error {
			s.reporting.sync.Run(ctx, received)
			return nil
		})
	}
	table := jobs.Table(s.reporting.works())
	for i := range table {
		switch {
		case s.jobsEvery > 0 && table[i].Every > 0:
			table[i].Every = s.jobsEvery
		case s.auditEvery > 0 && table[i].Name == "reconcile":
			table[i].Every = s.auditEvery
		}
	}
	service := jobs.Service{
		Pool: s.pool, Jobs: table, Log: s.t.log, Registry: s.registry,
		Queue: alerts.Queue, AddWorker: s.reporting.alerts.AddWorker,
	}
	group.Go(func() error { return service.Run(ctx) })
	return group.Wait()
}

// collectOften trades a little processor for memory: what the aggregator holds
// lives only as long as a batch, so less than the usual head room is enough.
// GOGC says otherwise when it is set.
func collectOften() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(70)
	}
}

func (s *services) aggregate(ctx context.Context, metrics *aggregator.Metrics) error {
	collectOften()
	a, err := aggregator.New(aggregator.Options{
		Pool: s.pool, NATS: s.nats, Stream: s.stream, BatchSize: s.batchSize, Log: s.t.log,
		Metrics: metrics,
	})
	if err != nil {
		return err
	}
	if !s.synced {
		s.sayWhetherSynced(ctx)
	}
	return a.Run(ctx)
}

// sayWhetherSynced tells whether an acknowledged event survives a power cut.
func (s *services) sayWhetherSynced(ctx context.Context) {
	const remedy = "set sync_interval: always in its jetstream block"
	if s.monitorURL == "" {
		s.t.log.Warn("cannot verify that NATS syncs before it acknowledges: give --nats-monitor-url, and " + remedy)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	switch synced, err := ingest.SyncAlways(ctx, s.monitorURL); {
	case err != nil:
		s.t.log.Warn("cannot verify that NATS syncs before it acknowledges", "err", err)
	case !synced:
		s.t.log.Error("NATS acknowledges before it syncs: a power cut loses acknowledged events: " + remedy)
	}
}
