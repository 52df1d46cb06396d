package main

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

// ground is where the races are run: a directory, a Postgres, and the NATS
// servers and databases that the races open.
type ground struct {
	t        *cli.Terminal
	dir      string
	postgres *localpg.Server
	admin    *pgxpool.Pool // database postgres
}

// openGround starts Postgres as a careful operator would: it syncs, and has
// room enough that checkpoints do not decide the races.
func openGround(ctx context.Context, t *cli.Terminal, dir string) (_ *ground, err error) {
	g := &ground{t: t}
	if g.dir, err = os.MkdirTemp(dir, "odometer-bench-"); err != nil {
		return nil, cli.Usagef("make a directory to work in: %w: give another --data-dir", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.close())
		}
	}()
	// Postgres may have to run as another user than root.
	if err := os.Chmod(g.dir, 0o755); err != nil {
		return nil, err
	}
	if g.dir, err = filepath.Abs(g.dir); err != nil {
		return nil, err
	}
	t.Log.Info("starting Postgres", "dir", g.dir)
	g.postgres, err = localpg.Start(ctx, localpg.Options{
		Dir: filepath.Join(g.dir, "postgres"),
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
	if g.admin, err = benchPool(ctx, g.postgres.URL()); err != nil {
		return nil, err
	}
	return g, nil
}

func (g *ground) close() error {
	if g.admin != nil {
		g.admin.Close()
	}
	var err error
	if g.postgres != nil {
		err = g.postgres.Stop()
	}
	return errors.Join(err, os.RemoveAll(g.dir))
}

func benchPool(ctx context.Context, url string) (*pgxpool.Pool, error) {
	config, err := cli.NewPoolConfig(url, 24)
	if err != nil {
		return nil, err
	}
	return pgxpool.NewWithConfig(ctx, config)
}

// database is a database of its own, with the schema, the catalogue and tenants.
type database struct {
	*pgxpool.Pool
	name, url string
	ground    *ground
}

// amplePlan is a plan that no race exhausts: the log must not tell of each
// tenant that does.
const amplePlan = "price_bench_monthly"

// openDatabase makes a database whose tenants are subscribed to a plan.
func (g *ground) openDatabase(ctx context.Context, name, plan string, tenants []uuid.UUID) (_ *database, err error) {
	if _, err := g.admin.Exec(ctx, "create database "+pgx.Identifier{name}.Sanitize()); err != nil {
		return nil, fmt.Errorf("make database %s: %w", name, err)
	}
	config := g.admin.Config().ConnConfig.Copy()
	d := &database{name: name, ground: g}
	d.url = fmt.Sprintf("postgres://%s@/%s?host=%s&port=%d&sslmode=disable", config.User, name, config.Host, config.Port)
	if d.Pool, err = benchPool(ctx, d.url); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	if _, err := migrations.Up(ctx, d.Pool); err != nil {
		return nil, err
	}
	catalogue := billing.SampleCatalogue()
	ample := odometer.Plan{ID: amplePlan, Name: "Bench", Allowances: map[string]odometer.Allowance{}}
	for _, a := range catalogue.Agents {
		ample.Allowances[a.ID] = odometer.Allowance{Limit: 1 << 40}
	}
	catalogue.Plans = append(catalogue.Plans, ample)
	if err := billing.ApplyCatalogue(ctx, d.Pool, catalogue); err != nil {
		return nil, err
	}
	return d, d.subscribe(ctx, plan, tenants)
}

// drop removes the database, and gives its space back.
func (d *database) drop(ctx context.Context) error {
	d.Close()
	if _, err := d.ground.admin.Exec(ctx, "drop database "+pgx.Identifier{d.name}.Sanitize()+" with (force)"); err != nil {
		return fmt.Errorf("drop database %s: %w", d.name, err)
	}
	return nil
}

// The period runs from the half of a month ago, so that no race crosses its end.
const benchTenantsSQL = `
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
	if _, err := d.Exec(ctx, benchTenantsSQL, tenants, plan); err != nil {
		return fmt.Errorf("subscribe %d tenants: %w", len(tenants), err)
	}
	return d.exec(ctx, makeCountersSQL, "analyze")
}

// The period is under way: its counters exist.
const makeCountersSQL = `
insert into usage_counters (tenant_id, agent, period_start, period_end, count)
select p.tenant_id, a.agent, p.period_start, p.period_end, 0
from billing_periods p, agents a`

const clearSQL = `
truncate usage_events, usage_counters, batches, dead_letters, stream_positions, stream_epochs`

// clear makes the books as new, for a stream that was never read.
func (d *database) clear(ctx context.Context) error {
	return d.exec(ctx, clearSQL, makeCountersSQL, "analyze usage_counters", "checkpoint")
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

// benchStream is a NATS server of its own, which holds the stream.
type benchStream struct {
	server *natsserver.Server
	nc     *nats.Conn
	*ingest.Stream
}

func (g *ground) openStream(ctx context.Context, name string) (_ *benchStream, err error) {
	s := &benchStream{}
	if s.server, err = app.StartNATS(filepath.Join(g.dir, "nats-"+name)); err != nil {
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

func (s *benchStream) close() {
	if s.nc != nil {
		s.nc.Close()
	}
	s.server.Shutdown()
	s.server.WaitForShutdown()
}
