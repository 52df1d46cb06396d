// Package demo runs the whole product on one machine: Postgres, NATS, a stand-in
// for Stripe, all services, and simulated agents. It ends with a check that every
// acknowledged event was counted once. Nothing of the product depends on it.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"odometer"
	"odometer/api"
	"odometer/cmd/internal/app"
	"odometer/cmd/internal/cli"
	"odometer/ingest"
	"odometer/migrations/localpg"
	"odometer/reporter"
	"odometer/reporter/stripetest"
)

// surviveClosedOutput keeps the process alive when what reads its output, or its
// terminal, goes away: Postgres and the temporary files would be left behind.
// A closed terminal ends the context.
func surviveClosedOutput(ctx context.Context) (context.Context, context.CancelFunc) {
	broken := make(chan os.Signal, 1) // a write returns an error
	signal.Notify(broken, syscall.SIGPIPE)
	stopClosed := func() {}
	if !signal.Ignored(syscall.SIGHUP) { // as under nohup
		ctx, stopClosed = signal.NotifyContext(ctx, syscall.SIGHUP)
	}
	return ctx, func() {
		stopClosed()
		signal.Stop(broken)
	}
}

// demo is one run: the servers, the services and the agents.
type demo struct {
	options  Options
	terminal *cli.Terminal
	dir      string
	opsAddr  string
	secret   []byte
	log      *slog.Logger
	postgres *localpg.Server
	server   *natsserver.Server
	pool     *pgxpool.Pool
	readers  *pgxpool.Pool
	nats     *nats.Conn
	closing  []func()
	keys     *runKeys

	began     time.Time
	stripe    *stripetest.Server
	stripeURL string
	registry  *prometheus.Registry
	reporting *app.Reporting
}

// stop takes down what start has brought up, last first.
func (d *demo) stop() {
	for i := len(d.closing) - 1; i >= 0; i-- {
		d.closing[i]()
	}
}

func (d *demo) onStop(f func()) { d.closing = append(d.closing, f) }

func (d *demo) start(ctx context.Context) error {
	steps := []func(context.Context) error{
		d.openDirectory, d.startPostgres, d.startStream, d.prepareDatabase, d.startStripe, d.prepareReporting,
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// prepareReporting sets up the reporter with the demo's short intervals.
func (d *demo) prepareReporting(context.Context) (err error) {
	settings := app.ReportingSettings{
		StripeSettings: app.StripeSettings{StripeAPIKey: stripeKey, StripeAPIBase: d.stripeURL},
		CloseGrace:     closeGrace,
	}
	d.registry = app.NewRegistry()
	d.reporting, err = settings.Reporting(d.serviceTerminal(), d.pool, d.nats, odometer.MaxAge, reporter.NewMetrics(d.registry))
	if err == nil {
		d.reporting.EveryCustomer = true
	}
	return err
}

// serviceTerminal is where the services write: into the log.
func (d *demo) serviceTerminal() *cli.Terminal {
	return &cli.Terminal{Out: d.terminal.Out, Err: d.terminal.Err, Log: d.log}
}

// run lets services and agents work until the time is up or ctx ends,
// then checks the counts.
func (d *demo) run(ctx context.Context) error {
	keys, err := api.KeysFromSecret(d.secret, api.Expect{})
	if err != nil {
		return err
	}
	d.opsAddr = app.FreeAddress("127.0.0.1:9090")
	services := app.Services{
		Terminal: d.serviceTerminal(), Pool: d.pool, ReadPool: d.readers, NATS: d.nats, Registry: d.registry, Drift: app.NewDrift(),
		Aggregator: true, Query: true, Ingest: true,
		Settings: app.ServiceSettings{
			HTTPAddr: d.options.Addr, OpsAddr: d.opsAddr, UsageRequestsPerMinute: 10, OriginSettings: d.options.OriginSettings,
		},
		Keys: keys, SyncVerified: true,
		Reporting: d.reporting, WebhookSecret: webhookSecret, JobInterval: jobInterval,
		Sessions: d.sessions,
	}
	if !d.options.Drill { // which must find its damages itself
		services.AuditInterval = auditInterval
	}
	// The services outlive the agents: what was published is still counted.
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	group, serving := errgroup.WithContext(serving)
	group.Go(func() error { return services.Run(serving) })
	group.Go(func() error { return d.advanceStripe(serving) })

	work, cancel := context.WithCancel(ctx)
	defer cancel()
	context.AfterFunc(serving, cancel) // a service that fails ends the demo
	if d.options.For > 0 {
		work, cancel = context.WithTimeout(work, d.options.For)
		defer cancel()
	}
	result, err := d.publishAndCheck(work, serving)
	stopServing()
	if failed := group.Wait(); failed != nil {
		return failed
	}
	if err != nil {
		return err
	}
	return result
}

// publishAndCheck runs the agents and prints progress meanwhile; then it waits until all
// is counted and returns what the check finds.
func (d *demo) publishAndCheck(ctx, serving context.Context) (finding error, err error) {
	stream, err := ingest.EnsureStream(serving, cli.JetStream(d.nats), ingest.StreamConfig{})
	if err != nil {
		return nil, err
	}
	// What an earlier run left in the stream is counted first.
	if err := d.waitUntilRead(serving, int64(stream.CachedInfo().State.LastSeq)); err != nil {
		return nil, err
	}
	if err := d.waitForSubscriptions(serving); err != nil {
		return nil, err
	}
	before, err := loadCounts(serving, d.pool, d.keys)
	if err != nil {
		return nil, err
	}
	agents, err := newAgents(d.nats, d.options.Rate, d.keys)
	if err != nil {
		return nil, err
	}
	d.printAddresses()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return agents.run(ctx) })
	group.Go(func() error { return d.printProgress(ctx, agents) })
	if err := group.Wait(); err != nil && !cli.Ended(ctx, err) {
		return nil, err
	}
	if serving.Err() != nil {
		return nil, nil //nolint:nilerr // the service that failed returns why
	}
	if finding, err = d.check(serving, agents, before); err != nil || !d.options.Drill {
		return finding, err
	}
	damaged, err := d.drill(serving)
	return errors.Join(finding, damaged), err
}

func (d *demo) printAddresses() {
	token, err := d.token(&Tenants[0], 24*time.Hour)
	if err != nil {
		panic(err) // the claims are well-formed
	}
	fmt.Fprintf(d.terminal.Out, "dashboard    http://%s/\n", d.options.Addr)
	fmt.Fprintf(d.terminal.Out, "usage API    curl -H 'Authorization: Bearer %s' http://%s/api/v1/usage\n", token, d.options.Addr)
	fmt.Fprintf(d.terminal.Out, "metrics      http://%s/metrics\n", d.opsAddr)
	fmt.Fprintf(d.terminal.Out, "NATS         %s\n", d.server.ClientURL())
	fmt.Fprintf(d.terminal.Out, "Postgres     %s\n", d.postgres.URL())
	fmt.Fprintf(d.terminal.Out, "Stripe       %s, a stand-in (key %s)\n", d.stripeURL, stripeKey)
	fmt.Fprintf(d.terminal.Out, "log          %s\n\n", filepath.Join(d.dir, "odometer.log"))
}

// Options are what the command's flags say.
type Options struct {
	For     time.Duration `help:"Stop by itself after this time, check the counts, and exit by the check." placeholder:"TIME"`
	Drill   bool          `help:"Damage the data before the end, and show that each damage is found and repaired."`
	Rate    int           `default:"200" help:"Events that the agents publish in a second."`
	Addr    string        `default:"127.0.0.1:8080" help:"Where the API listens; on loopback only."`
	DataDir string        `help:"Keep stream and database here between runs; without it they are temporary." placeholder:"DIR"`
	app.OriginSettings

	// Command runs a command line of this program and returns its exit code.
	Command func(ctx context.Context, args []string, stdout, stderr io.Writer) int `kong:"-"`
}

// Run starts the whole product on this machine, lets agents publish, and
// ends with the proof that nothing was lost or counted twice.
func Run(ctx context.Context, t *cli.Terminal, o Options) error {
	ctx, stop := surviveClosedOutput(ctx)
	defer stop()
	d := &demo{options: o, terminal: t, began: time.Now(), keys: newRunKeys()}
	defer d.stop()
	if err := d.start(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	return d.run(ctx)
}
