package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
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
	"odometer/ingest"
	"odometer/migrations/localpg"
	"odometer/reporter"
	"odometer/reporter/stripetest"
)

type demoCmd struct {
	For     time.Duration `help:"Stop by itself after this time, check the books, and exit by the check." placeholder:"TIME"`
	Drill   bool          `help:"Damage the books before the end, and show that each damage is found and repaired."`
	Rate    int           `default:"200" help:"Events that the agents publish in a second."`
	Addr    string        `default:"127.0.0.1:8080" help:"Where the API listens; on loopback only."`
	DataDir string        `help:"Keep stream and database here between runs; without it they are temporary." placeholder:"DIR"`
	originSettings
}

// Run brings up the whole product on this machine, lets agents work, and ends
// with the proof that nothing was lost or counted twice.
func (c *demoCmd) Run(ctx context.Context, t *terminal) error {
	if c.Rate < 1 || c.Rate > 20_000 {
		return usagef("--rate %d: want 1 to 20000 events a second", c.Rate)
	}
	if c.For < 0 {
		return usagef("--for %s: give a duration above 0", c.For)
	}
	if err := c.checkOrigins(); err != nil {
		return err
	}
	if err := c.checkAddr(); err != nil {
		return err
	}
	ctx, stop := outliveReader(ctx)
	defer stop()
	d := &demo{demoCmd: c, t: t, began: time.Now(), keys: newDemoKeys()}
	defer d.stop()
	if err := d.start(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	return d.perform(ctx)
}

// checkAddr finds out in time whether the demo can listen, and refuses to do so
// for others: whoever reaches it is its operator.
func (c *demoCmd) checkAddr() error {
	l, err := listen(c.Addr, "addr")
	if err != nil {
		return err
	}
	defer l.Close()
	if at, ok := l.Addr().(*net.TCPAddr); !ok || !at.IP.IsLoopback() {
		return usagef("--addr %s: other machines could reach it, and the demo lets everybody in without signing in: give an address of loopback, as 127.0.0.1:8080, or use odometer run", c.Addr)
	}
	return nil
}

// outliveReader keeps the process alive when what reads its output, or its
// terminal, goes away: Postgres and the temporary files would be left behind.
// A closed terminal ends the context.
func outliveReader(ctx context.Context) (context.Context, context.CancelFunc) {
	broken := make(chan os.Signal, 1) // whoever prints is told by an error
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

// demo is one showing: the servers, the house and the agents.
type demo struct {
	*demoCmd
	t        *terminal
	dir      string
	ops      string
	secret   []byte
	log      *slog.Logger
	postgres *localpg.Server
	server   *natsserver.Server
	pool     *pgxpool.Pool
	readers  *pgxpool.Pool
	nats     *nats.Conn
	closing  []func()
	keys     *demoKeys

	began     time.Time
	stripe    *stripetest.Server
	stripeURL string
	registry  *prometheus.Registry
	reporting *reporting
}

// stop takes down what start has brought up, last first.
func (d *demo) stop() {
	for i := len(d.closing) - 1; i >= 0; i-- {
		d.closing[i]()
	}
}

func (d *demo) atStop(f func()) { d.closing = append(d.closing, f) }

func (d *demo) start(ctx context.Context) error {
	steps := []func(context.Context) error{
		d.openDirectory, d.startPostgres, d.startStream, d.prepareBooks, d.startStripe, d.prepareReporting,
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// prepareReporting sets up what tells Stripe, at the demo's pace.
func (d *demo) prepareReporting(context.Context) (err error) {
	settings := reportingSettings{
		stripeSettings: stripeSettings{StripeAPIKey: demoStripeKey, StripeAPIBase: d.stripeURL},
		CloseGrace:     demoGrace,
	}
	d.registry = newRegistry()
	d.reporting, err = settings.reporting(d.inside(), d.pool, d.nats, odometer.MaxAge, reporter.NewMetrics(d.registry))
	if err == nil {
		d.reporting.eager = true
	}
	return err
}

// inside is where the services speak: into the log.
func (d *demo) inside() *terminal { return &terminal{out: d.t.out, err: d.t.err, log: d.log} }

// perform lets services and agents work until time is up or the user has seen
// enough, then proves the books.
func (d *demo) perform(ctx context.Context) error {
	keys, err := api.KeysFromSecret(d.secret, api.Expect{})
	if err != nil {
		return err
	}
	d.ops = freeAddress("127.0.0.1:9090")
	house := services{
		t: d.inside(), pool: d.pool, readers: d.readers, nats: d.nats, registry: d.registry, drift: newDrift(),
		aggregates: true, answers: true, ingests: true,
		httpAddr: d.Addr, opsAddr: d.ops, keys: keys, requestsPerMinute: 10, synced: true,
		reporting: d.reporting, hookSecret: demoHookSecret, jobsEvery: demoRhythm,
		sessions: d.sessions, origins: d.CORSOrigins,
	}
	if !d.Drill { // which must find its damages itself
		house.auditEvery = demoAudits
	}
	// The services outlive the agents: what was published is still counted.
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	group, serving := errgroup.WithContext(serving)
	group.Go(func() error { return house.run(serving) })
	group.Go(func() error { return d.passTime(serving) })

	work, cancel := context.WithCancel(ctx)
	defer cancel()
	context.AfterFunc(serving, cancel) // a service that fails ends the showing
	if d.For > 0 {
		work, cancel = context.WithTimeout(work, d.For)
		defer cancel()
	}
	result, err := d.work(work, serving)
	stopServing()
	if failed := group.Wait(); failed != nil {
		return failed
	}
	if err != nil {
		return err
	}
	return result
}

// work runs the agents and shows the books meanwhile; then it waits until all
// is counted and returns what the check finds.
func (d *demo) work(ctx, serving context.Context) (finding error, err error) {
	stream, err := ingest.EnsureStream(serving, mustJetStream(d.nats), ingest.StreamConfig{})
	if err != nil {
		return nil, err
	}
	// What an earlier run left in the stream is counted first.
	if err := d.settle(serving, int64(stream.CachedInfo().State.LastSeq)); err != nil {
		return nil, err
	}
	if err := d.awaitSubscriptions(serving); err != nil {
		return nil, err
	}
	before, err := loadCounts(serving, d.pool, d.keys)
	if err != nil {
		return nil, err
	}
	agents, err := newDemoAgents(d.nats, d.Rate, d.keys)
	if err != nil {
		return nil, err
	}
	d.sayWhere()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return agents.work(ctx) })
	group.Go(func() error { return d.show(ctx, agents) })
	if err := group.Wait(); err != nil && !ended(ctx, err) {
		return nil, err
	}
	if serving.Err() != nil {
		return nil, nil // the service that failed tells why
	}
	if finding, err = d.check(serving, agents, before); err != nil || !d.Drill {
		return finding, err
	}
	damaged, err := d.drill(serving)
	return errors.Join(finding, damaged), err
}

func (d *demo) sayWhere() {
	token, err := d.token(&demoTenants[0], 24*time.Hour)
	if err != nil {
		panic(err) // the claims are well-formed
	}
	fmt.Fprintf(d.t.out, "dashboard    http://%s/\n", d.Addr)
	fmt.Fprintf(d.t.out, "usage API    curl -H 'Authorization: Bearer %s' http://%s/api/v1/usage\n", token, d.Addr)
	fmt.Fprintf(d.t.out, "metrics      http://%s/metrics\n", d.ops)
	fmt.Fprintf(d.t.out, "NATS         %s\n", d.server.ClientURL())
	fmt.Fprintf(d.t.out, "Postgres     %s\n", d.postgres.URL())
	fmt.Fprintf(d.t.out, "Stripe       %s, a stand-in (key %s)\n", d.stripeURL, demoStripeKey)
	fmt.Fprintf(d.t.out, "log          %s\n\n", filepath.Join(d.dir, "odometer.log"))
}

// freeAddress is the preferred address, or any free one beside it when another
// program has that.
func freeAddress(preferred string) string {
	l, err := net.Listen("tcp", preferred)
	if err != nil {
		host, _, _ := net.SplitHostPort(preferred)
		if l, err = net.Listen("tcp", net.JoinHostPort(host, "0")); err != nil {
			return preferred
		}
	}
	defer l.Close()
	return l.Addr().String()
}
