package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"odometer"
	"odometer/billing"
	"odometer/cmd/internal/app"
	"odometer/cmd/internal/cli"
	"odometer/ingest"
	"odometer/migrations"
	"odometer/migrations/localpg"
)

// environment is what the benchmarks run in: a directory, a Postgres, and the
// NATS servers and databases that the benchmarks open.
type environment struct {
	*Options
	terminal *cli.Terminal
	dir      string
	postgres *localpg.Server
	admin    *pgxpool.Pool // database postgres
}

// openEnvironment starts Postgres as a careful operator would: it syncs, and
// there is so much room that checkpoints do not decide the benchmarks.
func openEnvironment(ctx context.Context, t *cli.Terminal, o *Options) (_ *environment, err error) {
	e := &environment{Options: o, terminal: t}
	if e.dir, err = os.MkdirTemp(o.DataDir, "odometer-bench-"); err != nil {
		return nil, cli.Usagef("make a directory to work in: %w: give another --data-dir", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.close())
		}
	}()
	// Postgres may have to run as another user than root.
	if err := os.Chmod(e.dir, 0o755); err != nil {
		return nil, err
	}
	if e.dir, err = filepath.Abs(e.dir); err != nil {
		return nil, err
	}
	t.Log.Info("starting Postgres", "dir", e.dir)
	e.postgres, err = localpg.Start(ctx, localpg.Options{
		Dir: filepath.Join(e.dir, "postgres"),
		Settings: map[string]string{
			"shared_buffers":     fmt.Sprintf("%dMB", min(2048, memoryBytes()>>20/4)),
			"max_wal_size":       "16GB",
			"checkpoint_timeout": "15min",
		},
		Log: func(format string, args ...any) { fmt.Fprintf(t.Err, format+"\n", args...) },
	})
	if err != nil {
		return nil, err
	}
	if e.admin, err = newPool(ctx, e.postgres.URL()); err != nil {
		return nil, err
	}
	return e, e.createTemplate(ctx)
}

func (e *environment) close() error {
	if e.admin != nil {
		e.admin.Close()
	}
	var err error
	if e.postgres != nil {
		err = e.postgres.Stop()
	}
	return errors.Join(err, os.RemoveAll(e.dir))
}

func newPool(ctx context.Context, url string) (*pgxpool.Pool, error) {
	config, err := cli.NewPoolConfig(url, 24)
	if err != nil {
		return nil, err
	}
	return pgxpool.NewWithConfig(ctx, config)
}

// database has the schema, the catalogue and tenants.
type database struct {
	*pgxpool.Pool
	name, url string
	admin     *pgxpool.Pool
}

// amplePlan is a plan that no benchmark exhausts, so that no alerts are logged.
const amplePlan = "price_bench_monthly"

// template is the database that the others are copies of: one migration is
// enough for all.
const template = "bench_template"

// createTemplate makes a database with the schema and the catalogue.
func (e *environment) createTemplate(ctx context.Context) error {
	d, err := e.create(ctx, template, "template1")
	if err != nil {
		return err
	}
	defer d.Close() // nobody may be connected to a template
	if _, err := migrations.Up(ctx, d.Pool); err != nil {
		return err
	}
	catalogue := billing.SampleCatalogue()
	ample := odometer.Plan{ID: amplePlan, Name: "Bench", Allowances: map[string]odometer.Allowance{}}
	for _, a := range catalogue.Agents {
		ample.Allowances[a.ID] = odometer.Allowance{Limit: 1 << 40}
	}
	catalogue.Plans = append(catalogue.Plans, ample)
	return billing.ApplyCatalogue(ctx, d.Pool, catalogue)
}

func (e *environment) create(ctx context.Context, name, from string) (*database, error) {
	if _, err := e.admin.Exec(ctx, "create database "+pgx.Identifier{name}.Sanitize()+" template "+from); err != nil {
		return nil, fmt.Errorf("create database %s: %w", name, err)
	}
	config := e.admin.Config().ConnConfig
	d := &database{name: name, admin: e.admin}
	d.url = fmt.Sprintf("postgres://%s@/%s?host=%s&port=%d&sslmode=disable", config.User, name, config.Host, config.Port)
	var err error
	d.Pool, err = newPool(ctx, d.url)
	return d, err
}

// openDatabase makes a database whose tenants are subscribed to a plan.
func (e *environment) openDatabase(ctx context.Context, name, plan string, tenants []uuid.UUID) (*database, error) {
	d, err := e.create(ctx, name, template)
	if err != nil {
		return nil, err
	}
	return d, d.subscribe(ctx, plan, tenants)
}

// drop removes the database, and gives its space back.
func (d *database) drop(ctx context.Context) error {
	d.Close()
	if _, err := d.admin.Exec(ctx, "drop database "+pgx.Identifier{d.name}.Sanitize()+" with (force)"); err != nil {
		return fmt.Errorf("drop database %s: %w", d.name, err)
	}
	return nil
}

// The period runs from the half of a month ago, so that no benchmark crosses its end.
const subscribeSQL = `
with bench_tenants as (
    insert into subscriptions (tenant_id, plan_id, status, period_interval, anchor)
    select tenant_id, $2, 'active', 'month', date_trunc('day', now(), 'UTC') - interval '15 days'
    from unnest($1::uuid[]) as tenant_id
    returning tenant_id, plan_id, anchor
)
insert into billing_periods (tenant_id, period_start, period_end, plan_id)
select tenant_id, anchor, anchor + interval '1 month', plan_id
from bench_tenants`

func (d *database) subscribe(ctx context.Context, plan string, tenants []uuid.UUID) error {
	if _, err := d.Exec(ctx, subscribeSQL, tenants, plan); err != nil {
		return fmt.Errorf("subscribe %d tenants: %w", len(tenants), err)
	}
	return d.exec(ctx, createCountersSQL, "analyze")
}

// The period is under way: its counters exist.
const createCountersSQL = `
insert into usage_counters (tenant_id, agent, period_start, period_end, count)
select p.tenant_id, a.agent, p.period_start, p.period_end, 0
from billing_periods p, agents a`

const clearSQL = `
truncate usage_events, usage_counters, batches, dead_letters, stream_positions, stream_epochs`

// clear removes what was counted, for a stream that was never read.
func (d *database) clear(ctx context.Context) error {
	return d.exec(ctx, clearSQL, createCountersSQL, "analyze usage_counters", "checkpoint")
}

const forgetStreamSQL = `
truncate batches, stream_positions, stream_epochs`

// forgetStream keeps what was counted, for a stream that was never read. The
// table has the statistics that autovacuum gives it within a minute.
func (d *database) forgetStream(ctx context.Context) error {
	return d.exec(ctx, forgetStreamSQL, "analyze usage_events", "checkpoint")
}

func (d *database) exec(ctx context.Context, statements ...string) error {
	for _, sql := range statements {
		if _, err := d.Exec(ctx, sql); err != nil {
			return fmt.Errorf("prepare database %s: %w", d.name, err)
		}
	}
	return nil
}

// stream is a NATS server of its own, which holds the stream.
type stream struct {
	server *natsserver.Server
	nc     *nats.Conn
	*ingest.Stream
}

func (e *environment) openStream(ctx context.Context, name string) (_ *stream, err error) {
	s := &stream{}
	if s.server, err = app.StartNATS(filepath.Join(e.dir, "nats-"+name), -1); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.nc, err = app.ConnectInProcess(s.server); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	s.Stream, err = ingest.EnsureStream(ctx, cli.JetStream(s.nc), ingest.StreamConfig{})
	return s, err
}

func (s *stream) close() {
	if s.nc != nil {
		s.nc.Close()
	}
	s.server.Shutdown()
	s.server.WaitForShutdown()
}

// discard closes the stream and removes what it holds.
func (s *stream) discard() {
	dir := s.server.StoreDir()
	s.close()
	_ = os.RemoveAll(dir) // the environment removes it at the latest
}

// startAggregator starts an aggregator in a process of its own, and returns when
// it has read every partition of the stream to its end.
func (e *environment) startAggregator(ctx context.Context, d *database, s *stream) (stop func() error, err error) {
	p, err := e.start(ctx, "aggregator", childParams{DatabaseURL: d.url, NATSURL: s.server.ClientURL()})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(p.begin(), d.waitUntilRead(ctx)); err != nil {
		return nil, errors.Join(err, p.stop())
	}
	return p.stop, nil
}
