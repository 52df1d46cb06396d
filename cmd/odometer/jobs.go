package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/nats-io/nats.go"

	"odometer/cmd/internal/app"
	"odometer/cmd/internal/cli"
	"odometer/cmd/internal/jobs"
	"odometer/query/admin"
	"odometer/reporter"
)

type jobsCmd struct {
	List   jobsListCmd   `cmd:"" help:"Show the jobs: when each is due, and how it went. Example: odometer jobs list"`
	Run    jobsRunCmd    `cmd:"" help:"Run a job now and wait for its end; needs no service. Example: odometer jobs run report"`
	Pause  jobsPauseCmd  `cmd:"" help:"Keep a job from being run by the services. Example: odometer jobs pause report"`
	Resume jobsResumeCmd `cmd:"" help:"Let a paused job be run again. Example: odometer jobs resume report"`
}

type jobsListCmd struct {
	cli.DatabaseSettings
	JSON bool `help:"Print JSON."`
}

// Run lists the jobs.
func (c *jobsListCmd) Run(ctx context.Context, t *cli.Terminal) error {
	pool, err := c.OpenMigrated(ctx, cli.FewConnections)
	if err != nil {
		return err
	}
	defer pool.Close()
	list, err := jobs.List(ctx, pool, time.Now())
	if err != nil {
		return err
	}
	if c.JSON {
		return t.JSON(list)
	}
	var rows []table.Row
	for _, j := range list {
		rows = append(rows, jobRow(j))
	}
	t.Table(table.Row{"job", "due", "last success", "last error", "paused", "last act"}, rows)
	return nil
}

func jobRow(j admin.Job) table.Row {
	success, paused, act := "never", "no", ""
	if j.LastSuccessAt != nil {
		success = j.LastSuccessAt.Format(time.RFC3339)
	}
	if j.Paused {
		paused = "yes"
	}
	if j.LastAct != nil {
		act = fmt.Sprintf("%s by %s at %s", j.LastAct.Act, j.LastAct.Who, j.LastAct.At.Format(time.RFC3339))
	}
	return table.Row{j.Name, j.DueAt.Format(time.RFC3339), success, cli.ValueOr(j.LastError, "none"), paused, act}
}

type jobsRunCmd struct {
	Name string `arg:"" help:"The job."`
	cli.DatabaseSettings
	cli.NATSSettings
	app.ReportingSettings
	EventRetention cli.Days `help:"How long events are kept after they were stored." default:"90d" env:"ODOMETER_EVENT_RETENTION"`
}

// Run runs a job now.
func (c *jobsRunCmd) Run(ctx context.Context, t *cli.Terminal) error {
	if err := c.check(); err != nil {
		return err
	}
	pool, err := c.OpenMigrated(ctx, cli.ReporterConnections)
	if err != nil {
		return err
	}
	defer pool.Close()
	nc, err := c.connectIfNeeded()
	if err != nil {
		return err
	}
	if nc != nil {
		defer nc.Close()
	}
	r, err := c.Reporting(t, pool, nc, time.Duration(c.EventRetention), nil)
	if err != nil {
		return err
	}
	job, err := jobs.Find(jobs.Table(r.Jobs()), c.Name)
	if err != nil {
		return err
	}
	if err := jobs.RunOnce(ctx, pool, job, cli.Operator()); err != nil {
		return err
	}
	fmt.Fprintf(t.Out, "%s is done\n", c.Name)
	return nil
}

func (c *jobsRunCmd) check() error {
	if err := checkJob(c.Name); err != nil {
		return err
	}
	return cli.CheckEventRetention(c.EventRetention)
}

// connectIfNeeded connects to NATS for a job that reads the stream, or that
// keeps the ledger's mirror in NATS when it reports to Stripe; nil for others.
func (c *jobsRunCmd) connectIfNeeded() (*nats.Conn, error) {
	_, sink, err := c.Account()
	if err != nil {
		return nil, err
	}
	reports := slices.Contains([]string{"report", "verify"}, c.Name) && sink != reporter.DryRun
	if c.Name != "reconcile" && !reports {
		return nil, nil
	}
	return c.Connect("jobs", false)
}

// checkJob is wrong usage when there is no job of that name.
func checkJob(name string) error {
	if _, err := jobs.Find(jobs.Table(nil), name); err != nil {
		return cli.UsageError{Err: err}
	}
	return nil
}

// jobSettings name a job to pause or to resume.
type jobSettings struct {
	Name string `arg:"" help:"The job."`
	cli.DatabaseSettings
}

type jobsPauseCmd struct{ jobSettings }

// Run pauses a job. What is running runs to its end.
func (c *jobsPauseCmd) Run(ctx context.Context, t *cli.Terminal) error {
	return c.setPaused(ctx, t, true)
}

type jobsResumeCmd struct{ jobSettings }

// Run lets a job be run again.
func (c *jobsResumeCmd) Run(ctx context.Context, t *cli.Terminal) error {
	return c.setPaused(ctx, t, false)
}

func (c *jobSettings) setPaused(ctx context.Context, t *cli.Terminal, paused bool) error {
	if err := checkJob(c.Name); err != nil {
		return err
	}
	pool, err := c.OpenMigrated(ctx, cli.FewConnections)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := jobs.SetPaused(ctx, pool, c.Name, paused, cli.Operator()); err != nil {
		return err
	}
	done := "resumed"
	if paused {
		done = "paused"
	}
	fmt.Fprintf(t.Out, "%s is %s\n", c.Name, done)
	return nil
}
