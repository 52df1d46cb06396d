package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
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
	rows, err := listJobs(ctx, pool, known(jobTable(nil)), time.Now())
	if err != nil {
		return err
	}
	if c.JSON {
		return t.json(rows)
	}
	var lines []table.Row
	for _, r := range rows {
		lines = append(lines, r.line())
	}
	t.table(table.Row{"job", "due", "last success", "last error", "paused", "last act"}, lines)
	return nil
}

// jobRow is a job as people see it.
type jobRow struct {
	Name          string     `json:"name"`
	DueAt         time.Time  `json:"due_at"`
	LastStartedAt *time.Time `json:"last_started_at"`
	LastSuccessAt *time.Time `json:"last_success_at"`
	LastError     *string    `json:"last_error"`
	Paused        bool       `json:"paused"`
	LastAct       *jobAct    `json:"last_act"`
}

// jobAct is what somebody did to a job.
type jobAct struct {
	Act    string    `json:"act"`
	Who    string    `json:"who"`
	At     time.Time `json:"at"`
	Result *string   `json:"result"`
}

func (r *jobRow) line() table.Row {
	success, paused, act := "never", "no", ""
	if r.LastSuccessAt != nil {
		success = r.LastSuccessAt.Format(time.RFC3339)
	}
	if r.Paused {
		paused = "yes"
	}
	if r.LastAct != nil {
		act = fmt.Sprintf("%s by %s at %s", r.LastAct.Act, r.LastAct.Who, r.LastAct.At.Format(time.RFC3339))
	}
	return table.Row{r.Name, r.DueAt.Format(time.RFC3339), success, orNone(r.LastError), paused, act}
}

const listJobsSQL = `
select
    j.last_started_at, j.last_success_at, j.last_error, q.paused_at is not null as paused,
    a.act, a.who, a.at, a.result
from (select $1::text as name) n
left join jobs j on j.job = n.name
left join river_queue q on q.name = n.name
left join lateral (
    select *
    from job_acts
    where job = n.name
    order by act_id desc
    limit 1
) a on true`

// listJobs tells how the jobs stand.
func listJobs(ctx context.Context, pool *pgxpool.Pool, jobs []job, now time.Time) ([]jobRow, error) {
	rows := []jobRow{}
	for _, j := range jobs {
		row := jobRow{Name: j.name}
		var act, who *string
		var at *time.Time
		var result *string
		err := pool.QueryRow(ctx, listJobsSQL, j.name).Scan(
			&row.LastStartedAt, &row.LastSuccessAt, &row.LastError, &row.Paused, &act, &who, &at, &result)
		if err != nil {
			return nil, fmt.Errorf("list job %s: %w", j.name, err)
		}
		row.LastStartedAt, row.LastSuccessAt = storedOrNil(row.LastStartedAt), storedOrNil(row.LastSuccessAt)
		row.DueAt = j.due(now, row.LastStartedAt)
		if act != nil {
			row.LastAct = &jobAct{*act, *who, at.UTC(), result}
		}
		rows = append(rows, row)
	}
	return rows, nil
}

type jobsRunCmd struct {
	Name string `arg:"" help:"The job."`
	jobSettings
}

// Run does a job now.
func (c *jobsRunCmd) Run(ctx context.Context, t *terminal) error {
	if _, err := withParts(jobTable(nil), c.Name); err != nil {
		return err
	}
	pool, err := c.openWide(ctx, reportConnections)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := c.run(ctx, t, pool, c.Name, operator()); err != nil {
		return err
	}
	fmt.Fprintf(t.out, "%s is done\n", c.Name)
	return nil
}

type jobsPauseCmd struct {
	Name string `arg:"" help:"The job."`
	databaseSettings
}

// Run pauses a job. What runs just now goes on to its end.
func (c *jobsPauseCmd) Run(ctx context.Context, t *terminal) error {
	return changeJob(ctx, t, &c.databaseSettings, c.Name, pauseJob)
}

type jobsResumeCmd struct {
	Name string `arg:"" help:"The job."`
	databaseSettings
}

// Run lets a job be run again.
func (c *jobsResumeCmd) Run(ctx context.Context, t *terminal) error {
	return changeJob(ctx, t, &c.databaseSettings, c.Name, resumeJob)
}

// changeJob pauses or resumes a job and says so.
func changeJob(ctx context.Context, t *terminal, s *databaseSettings, name string, act jobChange) error {
	if _, err := withParts(jobTable(nil), name); err != nil {
		return err
	}
	pool, err := s.openMigrated(ctx)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := setPaused(ctx, pool, jobTable(nil), name, operator(), act); err != nil {
		return err
	}
	fmt.Fprintf(t.out, "%s is %sd\n", name, act)
	return nil
}

// jobChange is what somebody does to a job.
type jobChange string

const (
	pauseJob  jobChange = "pause"
	resumeJob jobChange = "resume"
)

// River pauses only a queue that it knows.
const knowQueueSQL = `
insert into river_queue (name, updated_at)
values ($1, now())
on conflict do nothing`

// setPaused pauses or resumes the queues of a job and its parts, and writes
// down who did it. It does no harm to do it twice, and needs no service.
func setPaused(ctx context.Context, pool *pgxpool.Pool, jobs []job, name, who string, act jobChange) error {
	parts, err := withParts(jobs, name)
	if err != nil {
		return err
	}
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		return fmt.Errorf("set up River: %w", err)
	}
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		for _, j := range parts {
			if _, err := tx.Exec(ctx, knowQueueSQL, j.name); err != nil {
				return err
			}
			change := client.QueuePauseTx
			if act == resumeJob {
				change = client.QueueResumeTx
			}
			if err := change(ctx, tx, j.name, nil); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, actSQL, name, string(act), who, "done")
		return err
	})
	if err != nil {
		return fmt.Errorf("%s job %s: %w", act, name, err)
	}
	return nil
}
