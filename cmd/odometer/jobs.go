package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/nats-io/nats.go"

	"odometer"
	"odometer/cmd/internal/jobs"
	"odometer/query/admin"
	"odometer/reporter"
)

type jobsCmd struct {
	List   jobsListCmd   `cmd:"" help:"Show the jobs: when each is due, and how it went. Example: odometer jobs list"`
	Run    jobsRunCmd    `cmd:"" help:"Do a job now and wait for its end; needs no service. Example: odometer jobs run report"`
	Pause  jobsPauseCmd  `cmd:"" help:"Keep a job from being run by the services. Example: odometer jobs pause report"`
	Resume jobsResumeCmd `cmd:"" help:"Let a paused job be run again. Example: odometer jobs resume report"`
}

type jobsListCmd struct {
	databaseSettings
	JSON bool `help:"Print JSON."`
}

// Run lists the jobs.
func (c *jobsListCmd) Run(ctx context.Context, t *terminal) error {
	pool, err := c.openMigrated(ctx)
	if err != nil {
		return err
	}
	defer pool.Close()
	list, err := jobs.List(ctx, pool, time.Now())
	if err != nil {
		return err
	}
	if c.JSON {
		return t.json(list)
	}
	var rows []table.Row
	for _, j := range list {
		rows = append(rows, jobRow(j))
	}
	t.table(table.Row{"job", "due", "last success", "last error", "paused", "last act"}, rows)
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
	return table.Row{j.Name, j.DueAt.Format(time.RFC3339), success, orNone(j.LastError), paused, act}
}

type jobsRunCmd struct {
	Name string `arg:"" help:"The job."`
	databaseSettings
	natsSettings
	reportingSettings
	EventRetention days `help:"How long events are kept after they were stored." default:"90d" env:"ODOMETER_EVENT_RETENTION"`
}

// Run runs a job now.
func (c *jobsRunCmd) Run(ctx context.Context, t *terminal) error {
	if err := c.check(); err != nil {
		return err
	}
	pool, err := c.openWide(ctx, reportConnections)
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
	r, err := c.reporting(t, pool, nc, time.Duration(c.EventRetention), nil)
	if err != nil {
		return err
	}
	job, err := jobs.Find(jobs.Table(r.works()), c.Name)
	if err != nil {
		return err
	}
	if err := jobs.RunOnce(ctx, pool, job, operator()); errors.Is(err, jobs.ErrFound) {
		return errSaid
	} else if err != nil {
		return err
	}
	fmt.Fprintf(t.out, "%s is done\n", c.Name)
	return nil
}

func (c *jobsRunCmd) check() error {
	if err := checkJob(c.Name); err != nil {
		return err
	}
	if time.Duration(c.EventRetention) < odometer.MaxAge {
		return usagef("--event-retention %s: keys are remembered for 90 days by the events themselves: give at least 90d", c.EventRetention)
	}
	return nil
}

// connectIfNeeded connects to NATS for a job that reads the stream, or that
// keeps the ledger's mirror in NATS when it reports to Stripe; nil for others.
func (c *jobsRunCmd) connectIfNeeded() (*nats.Conn, error) {
	_, sink, err := c.account()
	if err != nil {
		return nil, err
	}
	reports := slices.Contains([]string{"report", "verify"}, c.Name) && sink != reporter.DryRun
	if c.Name != "reconcile" && !reports {
		return nil, nil
	}
	return c.connect("jobs", false)
}

// checkJob is wrong usage when there is no job of that name.
func checkJob(name string) error {
	if _, err := jobs.Find(jobs.Table(nil), name); err != nil {
		return usageError{err}
	}
	return nil
}

type jobsPauseCmd struct {
	Name string `arg:"" help:"The job."`
	databaseSettings
}

// Run pauses a job. What is running runs to its end.
func (c *jobsPauseCmd) Run(ctx context.Context, t *terminal) error {
	return pauseJob(ctx, t, &c.databaseSettings, c.Name, true)
}

type jobsResumeCmd struct {
	Name string `arg:"" help:"The job."`
	databaseSettings
}

// Run lets a job be run again.
func (c *jobsResumeCmd) Run(ctx context.Context, t *terminal) error {
	return pauseJob(ctx, t, &c.databaseSettings, c.Name, false)
}

// pauseJob pauses or resumes a job.
func pauseJob(ctx context.Context, t *terminal, s *databaseSettings, name string, paused bool) error {
	if err := checkJob(name); err != nil {
		return err
	}
	pool, err := s.openMigrated(ctx)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := jobs.SetPaused(ctx, pool, name, paused, operator()); err != nil {
		return err
	}
	done := "resumed"
	if paused {
		done = "paused"
	}
	fmt.Fprintf(t.out, "%s is %s\n", name, done)
	return nil
}

// operator is the person at this terminal, as far as the system knows.
func operator() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	if name := os.Getenv("USER"); name != "" {
		return name
	}
	return "unknown"
}
