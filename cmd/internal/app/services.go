// Package app puts the stages together into services that run in one process:
// the aggregator, the reporter with its jobs, the query API and HTTP ingest, with
// their HTTP and operations servers. It decides nothing about events or money.
package app

import (
	"context"
	"os"
	"runtime/debug"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
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

// Services are the parts of the program that run until their context ends.
type Services struct {
	Terminal *cli.Terminal
	Pool     *pgxpool.Pool // nil for ingest alone
	ReadPool *pgxpool.Pool // of the API alone, so that many reads never delay counting
	NATS     *nats.Conn    // nil for query alone
	Registry *prometheus.Registry
	Drift    prometheus.Gauge

	HTTPAddr, OpsAddr string
	MonitorURL        string
	Aggregator        bool
	Query             bool // reads, and serves pages
	Ingest            bool // accepts events over HTTP
	Stream            ingest.StreamConfig
	BatchSize         int
	MetricsPerTenant  bool
	Keys              *api.Keys // nil where no service asks for tokens
	Origins           []string  // of pages that may read answers
	RequestsPerMinute int
	SyncVerified      bool // NATS is known to sync before it acknowledges

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
	ops, err := Listen(s.OpsAddr, "ops-addr")
	if err != nil {
		return err
	}
	if s.Pool != nil {
		s.Registry.MustRegister(reporter.NewCollector(s.Pool, s.MetricsPerTenant, s.Terminal.Log), s.Drift)
	}
	received := make(chan struct{}, 1)
	handler, err := s.httpHandler(received)
	if err != nil {
		return err
	}
	if handler != nil {
		api, err := Listen(s.HTTPAddr, "http-addr")
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
		metrics = aggregator.NewMetrics(s.Registry, s.MetricsPerTenant)
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

// runReporter runs the jobs, and works off Stripe's hooks as they come.
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
// GOGC says otherwise when it is set.
func LowerGCPercent() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(70)
	}
}

func (s *Services) runAggregator(ctx context.Context, metrics *aggregator.Metrics) error {
	LowerGCPercent()
	a, err := aggregator.New(aggregator.Options{
		Pool: s.Pool, NATS: s.NATS, Stream: s.Stream, BatchSize: s.BatchSize, Log: s.Terminal.Log,
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
