package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"
)

// slotsKept is how long River remembers a slot that is done: longer than the
// slot can be the newest one, or it would be done again.
const slotsKept = 48 * time.Hour

// runJobs runs the jobs until ctx ends, then lets what runs finish for a
// while. Any number of processes may do so on one database: each slot is done
// by one of them. It waits for the database as long as it takes.
//
// A schedule in memory forgets what it missed. So a runner asks each second
// whether the newest slot of each job is there, and adds it where it is not:
// who comes back after midnight finds midnight's slot missing. Of several
// missed slots the newest stands for all; that is why a job is told its slot.
//
// Register the metric before the database answers: it is there from the start.
func runJobs(ctx context.Context, pool *pgxpool.Pool, jobs []job, log *slog.Logger, registry prometheus.Registerer) error {
	jobs = runnable(jobs)
	if err := registry.Register(newJobTimes(pool, jobs)); err != nil {
		return fmt.Errorf("register the jobs' metric: %w", err)
	}
	return newJobRunner(pool, jobs, log).run(ctx)
}

// jobRunner is one process's part in running the jobs.
type jobRunner struct {
	pool *pgxpool.Pool
	jobs []job
	log  *slog.Logger
	now  func() time.Time
	tick time.Duration

	client *river.Client[pgx.Tx]
	there  map[slotArgs]bool // newest slots that are known to be in the table
}

func newJobRunner(pool *pgxpool.Pool, jobs []job, log *slog.Logger) *jobRunner {
	return &jobRunner{pool: pool, jobs: jobs, log: log, now: time.Now, tick: time.Second, there: map[slotArgs]bool{}}
}

func (r *jobRunner) run(ctx context.Context) error {
	pause := time.Second
	for {
		err := r.start(ctx)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return nil
		}
		r.log.Warn("the jobs cannot start yet", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, 15*time.Second)
	}
	r.ensureAlways(ctx)
	<-r.client.Stopped()
	return nil
}

// River counts on its own that a queue is in use, and forgets one that was not
// for a day, with the pause on it. A service that comes back after longer must
// be first.
const knowJobsSQL = `
with gone as (
    delete from jobs
    where job <> all($1)
),
queues as (
    insert into river_queue (name, updated_at)
    select name, now()
    from unnest($1::text[]) as name
    order by name
    on conflict (name) do update
    set updated_at = excluded.updated_at
)
insert into jobs (job)
select name
from unnest($1::text[]) as name
order by name
on conflict do nothing`

func (r *jobRunner) start(ctx context.Context) error {
	if _, err := r.pool.Exec(ctx, knowJobsSQL, namesOf(r.jobs)); err != nil {
		return fmt.Errorf("write down the jobs: %w", err)
	}
	workers := river.NewWorkers()
	river.AddWorker(workers, &slotWorker{runner: r})
	queues := map[string]river.QueueConfig{}
	longest := time.Hour
	for _, j := range r.jobs {
		queues[j.name] = river.QueueConfig{MaxWorkers: 1}
		longest = max(longest, j.timeout())
	}
	client, err := river.NewClient(riverpgxv5.New(r.pool), &river.Config{
		Logger:                      slog.New(atLeastWarn{r.log.Handler()}),
		Queues:                      queues,
		Workers:                     workers,
		FetchPollInterval:           5 * time.Second, // a notification comes at once
		JobTimeout:                  longest,
		RescueStuckJobsAfter:        time.Minute + longest,
		SoftStopTimeout:             10 * time.Second,
		CompletedJobRetentionPeriod: slotsKept,
		CancelledJobRetentionPeriod: slotsKept,
		DiscardedJobRetentionPeriod: slotsKept,
	})
	if err != nil {
		return fmt.Errorf("set up River: %w", err)
	}
	if err := client.Start(ctx); err != nil {
		return fmt.Errorf("start River: %w", err)
	}
	r.client = client
	return nil
}

// ensureAlways sees to it that the newest slots are there, until ctx ends.
func (r *jobRunner) ensureAlways(ctx context.Context) {
	ticker := time.NewTicker(r.tick)
	defer ticker.Stop()
	failing := false
	for {
		err := r.ensure(ctx)
		if err != nil && ctx.Err() == nil && !failing {
			r.log.Warn("the jobs wait for Postgres", "err", err)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// slotArgs name a slot in River's table, where it stands once.
type slotArgs struct {
	Job   string    `json:"job"`
	At    time.Time `json:"at"`
	Daily bool      `json:"daily"`
}

// Kind is what River calls all of our rows: a queue tells the jobs apart.
func (slotArgs) Kind() string { return "slot" }

// onceInAnyState: also a slot that failed for good is not begun again.
var onceInAnyState = append(rivertype.UniqueOptsByStateDefault(), rivertype.JobStateCancelled, rivertype.JobStateDiscarded)

// While a slot of a job waits, as one that is paused does, a newer one is not
// added: it would only pile up.
const waitingSlotsSQL = `
select queue, coalesce((args ->> 'daily')::boolean, false)
from river_job
where state in ('available', 'scheduled', 'retryable')
  and queue = any($1)`

// ensure adds each job's newest slots where they are not there yet.
func (r *jobRunner) ensure(ctx context.Context) error {
	var missing []slotArgs
	newest := map[slotArgs]bool{}
	for _, j := range r.jobs {
		for _, s := range j.latest(r.now()) {
			args := slotArgs{j.name, s.at, s.daily}
			if newest[args] = r.there[args]; !newest[args] {
				missing = append(missing, args)
			}
		}
	}
	r.there = newest
	if len(missing) == 0 {
		return nil
	}
	type queued struct {
		queue string
		daily bool
	}
	waiting := map[queued]bool{}
	rows, _ := r.pool.Query(ctx, waitingSlotsSQL, namesOf(r.jobs))
	var q queued
	if _, err := pgx.ForEachRow(rows, []any{&q.queue, &q.daily}, func() error { waiting[q] = true; return nil }); err != nil {
		return fmt.Errorf("list slots that wait: %w", err)
	}
	for _, args := range missing {
		if waiting[queued{args.Job, args.Daily}] {
			continue
		}
		_, err := r.client.Insert(ctx, args, &river.InsertOpts{
			Queue: args.Job, MaxAttempts: 100, // the next slot ends the attempts
			UniqueOpts: river.UniqueOpts{ByArgs: true, ByState: onceInAnyState},
		})
		if err != nil {
			return fmt.Errorf("add slot %s of job %s: %w", args.At.Format(time.RFC3339), args.Job, err)
		}
		r.there[args] = true
	}
	return nil
}

// slotWorker does what a slot is for.
type slotWorker struct {
	river.WorkerDefaults[slotArgs]
	runner *jobRunner
}

// retryDelay is how long a slot that failed waits for its next attempt.
func retryDelay(attempt int) time.Duration {
	return min(time.Minute<<min(max(attempt-1, 0), 10), 30*time.Minute)
}

// NextRetry is when a slot that failed is tried again.
func (w *slotWorker) NextRetry(row *river.Job[slotArgs]) time.Time {
	return time.Now().Add(retryDelay(row.Attempt))
}

// Timeout is how long the attempt may take; then River takes the slot for one
// whose process has died.
func (w *slotWorker) Timeout(row *river.Job[slotArgs]) time.Duration {
	if j := w.job(row.Args.Job); j != nil {
		return j.timeout()
	}
	return 0
}

func (w *slotWorker) job(name string) *job {
	i := slices.IndexFunc(w.runner.jobs, func(j job) bool { return j.name == name })
	if i < 0 {
		return nil
	}
	return &w.runner.jobs[i]
}

// Work does the slot. One that fails is tried again until the next slot takes
// its place. When somebody else does the job just now, its slot is done too;
// only a daily one waits, because what runs may be less than the day's work.
func (w *slotWorker) Work(ctx context.Context, row *river.Job[slotArgs]) error {
	r, args := w.runner, row.Args
	j := w.job(args.Job)
	if j == nil {
		return river.JobCancel(fmt.Errorf("job %s: this binary has none", args.Job))
	}
	s := slot{at: args.At.UTC(), daily: args.Daily}
	err := execute(ctx, r.pool, *j, s, false)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errTaken) && s.daily:
		return river.JobSnooze(30 * time.Second)
	case errors.Is(err, errTaken):
		return nil
	case errors.Is(ctx.Err(), context.Canceled):
		return err // the process stops; River leaves the slot to the next one
	}
	r.log.Error("a job failed", "job", j.name, "slot", s.at, "attempt", row.Attempt, "err", err)
	if next := r.now().Add(retryDelay(row.Attempt)); !next.Before(j.after(s)) {
		return river.JobCancel(err)
	}
	return err
}

// atLeastWarn passes on what River warns of; the rest is its own affair.
type atLeastWarn struct{ slog.Handler }

// Enabled leaves out what is below a warning.
func (h atLeastWarn) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && h.Handler.Enabled(ctx, level)
}

// WithAttrs keeps the bound.
func (h atLeastWarn) WithAttrs(attrs []slog.Attr) slog.Handler {
	return atLeastWarn{h.Handler.WithAttrs(attrs)}
}

// WithGroup keeps the bound.
func (h atLeastWarn) WithGroup(name string) slog.Handler {
	return atLeastWarn{h.Handler.WithGroup(name)}
}
