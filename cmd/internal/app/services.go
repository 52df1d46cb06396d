// Package app puts the stages together into services that run in one process:
// the aggregator, the reporter with its jobs, the query API and HTTP ingest, with
// their HTTP and operations servers. It decides nothing about events or money.
package app

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"odometer/aggregator"
	"odometer/api"
	"odometer/audit"
	"odometer/cmd/internal/cli"
	"odometer/cmd/internal/jobs"
	"odometer/ingest"
	"odometer/query/web"
	"odometer/reporter"
	"odometer/reporter/alerts"
)

// Close closes what connectAll has opened.
func (s *Services) Close() {
	if s.NATS != nil {
		s.NATS.Close()
	}
	if s.Pool != nil {
		s.Pool.Close()
		s.ReadPool.Close()
	}
}

// readConnections are the API's: more than the reads of many events may hold
// at once, so that the usage of the moment is always answered.
const readConnections = 24

// NewReadPool is the API's, beside the pool of a configuration.
func NewReadPool(ctx context.Context, config *pgxpool.Config) (*pgxpool.Pool, error) {
	config = config.Copy()
	config.MaxConns = readConnections
	return pgxpool.NewWithConfig(ctx, config)
}

// ServiceSettings are the flags of run that say how the services work.
type ServiceSettings struct {
	HTTPAddr  string `name:"http-addr" default:"127.0.0.1:8080" help:"Where the API listens." env:"ODOMETER_HTTP_ADDR"`
	OpsAddr   string `default:"127.0.0.1:9090" help:"Where /metrics, /healthz and /readyz listen." env:"ODOMETER_OPS_ADDR"`
	BatchSize int    `default:"5000" help:"Messages that one transaction counts at most." env:"ODOMETER_BATCH_SIZE"`
	OriginSettings
	UsageRequestsPerMinute int  `default:"10" help:"Requests for usage that a tenant may make in a minute; 0 for no limit." env:"ODOMETER_USAGE_REQUESTS_PER_MINUTE"`
	MetricsPerTenant       bool `help:"Label metrics by tenant: a series for each." env:"ODOMETER_METRICS_PER_TENANT"`
}

// Check returns a usage error for a value out of range.
func (s *ServiceSettings) Check() error {
	if s.UsageRequestsPerMinute < 0 {
		return cli.Usagef("--usage-requests-per-minute %d: want 1 or more, or 0 for no limit", s.UsageRequestsPerMinute)
	}
	if s.BatchSize < 1 || s.BatchSize > 50_000 {
		return cli.Usagef("--batch-size %d: want 1 to 50000", s.BatchSize)
	}
	return s.CheckOrigins()
}

// Services are the parts of the program that run until their context ends.
type Services struct {
	Terminal *cli.Terminal
	Pool     *pgxpool.Pool // nil for ingest alone
	ReadPool *pgxpool.Pool // of the API alone, so that many reads never delay counting
	NATS     *nats.Conn    // nil for query alone
	Registry *prometheus.Registry
	Drift    prometheus.Gauge

	Settings     ServiceSettings
	MonitorURL   string
	Aggregator   bool
	Query        bool // reads, and serves pages
	Ingest       bool // accepts events over HTTP
	Stream       ingest.StreamConfig
	Keys         *api.Keys // nil where no service asks for tokens
	SyncVerified bool      // NATS is known to sync before it acknowledges

	Reporting     *Reporting                                   // nil without the reporter service
	WebhookSecret string                                       // "" serves no webhook
	JobInterval   time.Duration                                // replaces the interval of each job, for the demo
	AuditInterval time.Duration                                // likewise for the job reconcile, which is daily
	Sessions      func(context.Context) ([]web.Session, error) // mints the demo's tokens; nil elsewhere
}

// NewDrift is the gauge of counters that the last audit found wrong.
func NewDrift() prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "usage_drifted_counters",
		Help: "Counters that were not the sum of their events when they were last audited.",
	})
}

// Run runs the services until ctx ends or one of them fails.
func (s *Services) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	ops, err := Listen(s.Settings.OpsAddr, "ops-addr")
	if err != nil {
		return err
	}
	if s.Pool != nil {
		s.Registry.MustRegister(reporter.NewCollector(s.Pool, s.Settings.MetricsPerTenant, s.Terminal.Log), s.Drift)
	}
	received := make(chan struct{}, 1)
	handler, err := s.httpHandler(received)
	if err != nil {
		return err
	}
	if handler != nil {
		api, err := Listen(s.Settings.HTTPAddr, "http-addr")
		if err != nil {
			return err
		}
		group.Go(func() error { return Serve(ctx, api, handler) })
		s.Terminal.Log.Info("the API listens", "addr", api.Addr().String())
	}
	group.Go(func() error { return Serve(ctx, ops, s.opsHandler()) })
	var metrics *aggregator.Metrics
	var watch *audit.Monitor
	if s.Aggregator {
		metrics = aggregator.NewMetrics(s.Registry, s.Settings.MetricsPerTenant)
		js, err := jetstream.New(s.NATS)
		if err != nil {
			return err
		}
		watch = audit.NewMonitor(s.Pool, js, s.Terminal.Log, s.Registry)
	}
	group.Go(func() error {
		working, ctx := errgroup.WithContext(ctx)
		if s.Ingest {
			working.Go(func() error { return s.ensureStream(ctx) })
		}
		if s.Pool == nil {
			return working.Wait()
		}
		if err := s.waitForSchema(ctx); err != nil {
			return err
		}
		if s.Aggregator {
			working.Go(func() error { return s.runAggregator(ctx, metrics) })
			working.Go(func() error { return watch.Run(ctx) })
		}
		if s.Reporting != nil {
			working.Go(func() error { return s.runReporter(ctx, received) })
		}
		return working.Wait()
	})
	return group.Wait()
}

// runReporter runs the jobs, and applies Stripe's webhooks as they arrive.
func (s *Services) runReporter(ctx context.Context, received <-chan struct{}) error {
	group, ctx := errgroup.WithContext(ctx)
	if s.Reporting.Sync != nil {
		group.Go(func() error {
			s.Reporting.Sync.Run(ctx, received)
			return nil
		})
	}
	table := jobs.Table(s.Reporting.Jobs())
	for i := range table {
		switch {
		case s.JobInterval > 0 && table[i].Every > 0:
			table[i].Every = s.JobInterval
		case s.AuditInterval > 0 && table[i].Name == "reconcile":
			table[i].Every = s.AuditInterval
		}
	}
	service := jobs.Service{
		Pool: s.Pool, Jobs: table, Log: s.Terminal.Log, Registry: s.Registry,
		Queue: alerts.Queue, AddWorker: s.Reporting.alerts.AddWorker,
	}
	group.Go(func() error { return service.Run(ctx) })
	return group.Wait()
}

// LowerGCPercent trades a little processor for memory: what the aggregator holds
// lives only as long as a batch, so less than the usual head room is enough.
// GOGC overrides it.
func LowerGCPercent() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(70)
	}
}

func (s *Services) runAggregator(ctx context.Context, metrics *aggregator.Metrics) error {
	LowerGCPercent()
	a, err := aggregator.New(aggregator.Options{
		Pool: s.Pool, NATS: s.NATS, Stream: s.Stream, BatchSize: s.Settings.BatchSize, Log: s.Terminal.Log,
		Metrics: metrics,
	})
	if err != nil {
		return err
	}
	if !s.SyncVerified {
		s.checkSync(ctx)
	}
	return a.Run(ctx)
}

// checkSync logs whether an acknowledged event survives a power cut.
func (s *Services) checkSync(ctx context.Context) {
	const remedy = "set sync_interval: always in its jetstream block"
	if s.MonitorURL == "" {
		s.Terminal.Log.Warn("cannot verify that NATS syncs before it acknowledges: give --nats-monitor-url, and " + remedy)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	switch synced, err := ingest.SyncAlways(ctx, s.MonitorURL); {
	case err != nil:
		s.Terminal.Log.Warn("cannot verify that NATS syncs before it acknowledges", "err", err)
	case !synced:
		s.Terminal.Log.Error("NATS acknowledges before it syncs: a power cut loses acknowledged events: " + remedy)
	}
}

// StartNATS runs a NATS server inside this process that keeps its stream in
// dir and syncs it before it acknowledges. It listens on a loopback port, -1 for
// a free one, for publishers from outside.
func StartNATS(dir string, port int) (*natsserver.Server, error) {
	server, err := natsserver.NewServer(&natsserver.Options{
		ServerName: "odometer",
		Host:       "127.0.0.1",
		Port:       port,
		JetStream:  true,
		StoreDir:   dir,
		SyncAlways: true,
		NoLog:      true,
		NoSigs:     true, // the signals are ours
	})
	if err != nil {
		return nil, fmt.Errorf("start NATS in %s: %w", dir, err)
	}
	go server.Start()
	if !server.ReadyForConnections(10 * time.Second) {
		server.Shutdown()
		return nil, fmt.Errorf("start NATS in %s: it is not ready after 10 s: check whether another process uses that directory", dir)
	}
	return server, nil
}

// ConnectInProcess connects to a server of this process without a socket.
func ConnectInProcess(server *natsserver.Server) (*nats.Conn, error) {
	nc, err := nats.Connect("", nats.InProcessServer(server), nats.MaxReconnects(-1), nats.Name("odometer"))
	if err != nil {
		return nil, fmt.Errorf("connect to NATS inside: %w", err)
	}
	return nc, nil
}
