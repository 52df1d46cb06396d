package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"

	"odometer"
	"odometer/cmd/internal/cli"
)

// kept is how long River remembers a slot that is done. It must be longer than
// the slot can be the newest one, or the slot would be done again.
const kept = 35 * 24 * time.Hour

// Service is one process's part in running the jobs. Any number of processes
// may run one on the same database.
type Service struct {
	Pool     *pgxpool.Pool
	Jobs     []Job
	Log      *slog.Logger
	Registry prometheus.Registerer

	// What else River works on: a queue, and the worker for what is in it.
	Queue     string
	AddWorker func(*river.Workers)

	now func() time.Time // nil for time.Now
}

// Run runs the jobs until ctx ends, then waits up to 10 s for what is running.
// While the database does not answer it tries again. The metrics exist from the
// start.
func (s *Service) Run(ctx context.Context) error {
	if s.now == nil {
		s.now = time.Now
	}
	if err := s.Registry.Register(newMetrics(s.Pool, s.Jobs)); err != nil {
		return fmt.Errorf("register the jobs' metrics: %w", err)
	}
	retry := odometer.Backoff{Min: time.Second, Max: 15 * time.Second}
	for ctx.Err() == nil {
		client, err := s.start(ctx)
		if err == nil {
			<-client.Stopped()
			return nil
		}
		s.Log.Warn("the jobs cannot start yet", "reason", err)
		_ = retry.Wait(ctx) // an error means that ctx has ended
	}
	return nil
}

// River removes a queue, and with it the pause, when no service reported it in
// use for a day. So a service reports its queues before it starts River.
const registerSQL = `
with queues as (
    insert into river_queue (name, updated_at)
    select name, now()
    from unnest($1::text[]) as name
    order by name
    on conflict (name) do update
    set updated_at = excluded.updated_at
),
gone as (
    delete from jobs
    where job <> all($1)
)
insert into jobs (job)
select name
from unnest($1::text[]) as name
order by name
on conflict do nothing`

func (s *Service) start(ctx context.Context) (*river.Client[pgx.Tx], error) {
	if _, err := s.Pool.Exec(ctx, registerSQL, names(s.Jobs)); err != nil {
		return nil, fmt.Errorf("register the jobs: %w", err)
	}
	workers := river.NewWorkers()
	river.AddWorker(workers, &slotWorker{service: s})
	queues := map[string]river.QueueConfig{}
	if s.AddWorker != nil {
		s.AddWorker(workers)
		queues[s.Queue] = river.QueueConfig{MaxWorkers: 1}
	}
	var schedules []*river.PeriodicJob
	for _, j := range s.Jobs {
		queues[j.Name] = river.QueueConfig{MaxWorkers: 1}
		schedules = append(schedules, s.schedules(j)...)
	}
	client, err := river.NewClient(riverpgxv5.New(s.Pool), &river.Config{
		Logger:                      slog.New(warnings{s.Log.Handler()}),
		Queues:                      queues,
		Workers:                     workers,
		PeriodicJobs:                schedules,
		FetchPollInterval:           5 * time.Second, // notifications arrive at once
		RescueStuckJobsAfter:        2 * time.Minute, // and not before the worker's own timeout
		SoftStopTimeout:             10 * time.Second,
		CompletedJobRetentionPeriod: kept,
		CancelledJobRetentionPeriod: kept,
		DiscardedJobRetentionPeriod: kept,
	})
	if err != nil {
		return nil, fmt.Errorf("set up River: %w", err)
	}
	if err := client.Start(ctx); err != nil {
		return nil, fmt.Errorf("start River: %w", err)
	}
	return client, nil
}

// slotArgs identify a slot in River's table, which holds each only once.
type slotArgs struct {
	Job   string    `json:"job"`
	At    time.Time `json:"at"`
	Daily bool      `json:"daily"`
}

// Kind is River's name for all of our rows; the queue tells the jobs apart.
func (slotArgs) Kind() string { return "slot" }

// A slot is inserted once, whatever became of it.
var inAnyState = append(rivertype.UniqueOptsByStateDefault(), rivertype.JobStateCancelled, rivertype.JobStateDiscarded)

// schedules are a job's interval and its time of the day. River asks for the
// newest slot when a service starts and then each minute at least, also of a
// daily job: an insert that failed, or a slot that nobody was there for, is
// made up. A slot that exists already is skipped.
func (s *Service) schedules(j Job) []*river.PeriodicJob {
	var all []*river.PeriodicJob
	for i := range j.newest(s.now()) {
		newest := func() (river.JobArgs, *river.InsertOpts) {
			const early = 200 * time.Millisecond // River asks up to 100 ms before the time
			slot := j.newest(s.now().Add(early))[i]
			return slotArgs{j.Name, slot.At, slot.Daily}, &river.InsertOpts{
				Queue:      j.Name,
				UniqueOpts: river.UniqueOpts{ByArgs: true, ByState: inAnyState},
			}
		}
		interval := time.Minute
		if j.Every > 0 {
			interval = min(j.Every, interval)
		}
		all = append(all, river.NewPeriodicJob(ticks(interval), newest, &river.PeriodicJobOpts{RunOnStart: true}))
	}
	return all
}

// ticks is a schedule of the full seconds or minutes of the clock.
type ticks time.Duration

// Next is the first tick after now.
func (t ticks) Next(now time.Time) time.Time {
	return now.Truncate(time.Duration(t)).Add(time.Duration(t))
}

// slotWorker does what a slot is for.
type slotWorker struct {
	river.WorkerDefaults[slotArgs]
	service *Service
}

// Timeout is how long an attempt may take. After it River takes the slot for
// one whose process has died.
func (w *slotWorker) Timeout(row *river.Job[slotArgs]) time.Duration {
	j, err := Find(w.service.Jobs, row.Args.Job)
	if err != nil {
		return time.Minute
	}
	return j.timeout()
}

// Work does the slot, unless a newer one of the job stands for it. River tries
// a failed slot again, but for one of a minute: the next is due by then.
func (w *slotWorker) Work(ctx context.Context, row *river.Job[slotArgs]) error {
	s, slot := w.service, Slot{At: row.Args.At.UTC(), Daily: row.Args.Daily}
	j, err := Find(s.Jobs, row.Args.Job)
	if err != nil {
		return river.JobCancel(err)
	}
	if newer, err := w.newer(ctx, row); err != nil || newer {
		if newer {
			err = river.JobCancel(errors.New("a newer slot stands for it"))
		}
		return err
	}
	err = execute(ctx, s.Pool, j, slot, false)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errRunning):
		return river.JobSnooze(10 * time.Second)
	case errors.Is(ctx.Err(), context.Canceled):
		return river.JobSnooze(0) // the process stops: the next one does the slot
	}
	s.Log.Error("a job failed", "job", j.Name, "slot", slot.At, "attempt", row.Attempt, "reason", err)
	if !slot.Daily && j.Every <= time.Minute {
		return river.JobCancel(err)
	}
	return err
}

const newerSQL = `
select exists (
    select
    from river_job
    where id > $1
      and queue = $2
      and (args ->> 'daily')::boolean = $3
)`

// newer reports whether a newer slot of the job was inserted.
func (w *slotWorker) newer(ctx context.Context, row *river.Job[slotArgs]) (found bool, err error) {
	err = w.service.Pool.QueryRow(ctx, newerSQL, row.ID, row.Args.Job, row.Args.Daily).Scan(&found)
	if err != nil {
		return false, fmt.Errorf("look for newer slots of job %s: %w", row.Args.Job, err)
	}
	return found, nil
}

// warnings passes River's warnings and errors to our log, and nothing below.
type warnings struct{ slog.Handler }

// Enabled drops what is below a warning.
func (h warnings) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && h.Handler.Enabled(ctx, level)
}

// errRunning means that the job is running elsewhere.
var errRunning = errors.New("the job is running elsewhere")

const tryLockSQL = `
select pg_try_advisory_lock(hashtextextended('odometer job ' || $1, 0))`

const unlockSQL = `
select pg_advisory_unlock_all()`

// exclusively calls do while no other process runs the same job. River limits
// its workers per process only, and a run by hand is none of River's. The lock
// has a connection of its own, outside the pool: jobs that hold all of the
// pool's connections while they wait for another would wait for ever. It ends
// with the process that holds it. With wait it waits for the lock, else it
// returns errRunning.
func exclusively(ctx context.Context, pool *pgxpool.Pool, name string, wait bool, do func() error) error {
	lock, err := pgx.ConnectConfig(ctx, pool.Config().ConnConfig)
	if err != nil {
		return fmt.Errorf("connect to lock job %s: %w", name, err)
	}
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_, _ = lock.Exec(last, unlockSQL) // the session's end does it too, a moment later
		_ = lock.Close(last)
	}()
	for {
		var got bool
		if err := lock.QueryRow(ctx, tryLockSQL, name).Scan(&got); err != nil {
			return fmt.Errorf("lock job %s: %w", name, err)
		}
		if got {
			return do()
		}
		if !wait {
			return errRunning
		}
		// A waiting statement would hold a snapshot, and counting slows down beside an old one.
		if err := odometer.Sleep(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

// execute runs a job once, exclusively, and records the result.
func execute(ctx context.Context, pool *pgxpool.Pool, j Job, s Slot, wait bool) error {
	return exclusively(ctx, pool, j.Name, wait, func() error {
		if _, err := pool.Exec(ctx, startedSQL, j.Name); err != nil {
			return fmt.Errorf("record the start of job %s: %w", j.Name, err)
		}
		err := runGuarded(ctx, j, s)
		if err != nil && errors.Is(ctx.Err(), context.Canceled) {
			return fmt.Errorf("stopped: %w", context.Canceled) // neither a success nor a failure
		}
		failure := ""
		if err != nil && !errors.Is(err, cli.ErrFindings) { // the job is done; a person decides about its findings
			failure = cli.OneLine(err)
		}
		return errors.Join(err, record(ctx, pool, endedSQL, j.Name, failure))
	})
}

// runGuarded runs the job; a panic becomes its error.
func runGuarded(ctx context.Context, j Job, s Slot) (err error) {
	ctx, cancel := context.WithTimeout(ctx, j.timeout())
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return j.Run(ctx, s)
}

const startedSQL = `
insert into jobs (job, last_started_at)
values ($1, now())
on conflict (job) do update
set last_started_at = excluded.last_started_at`

const endedSQL = `
update jobs
set last_success_at = case when $2 = '' then now() else last_success_at end,
    last_error = nullif($2, ''),
    failures = failures + ($2 <> '')::integer
where job = $1`

const actSQL = `
insert into job_acts (job, act, who, result)
values ($1, $2, $3, $4)
returning act_id`

const actResultSQL = `
update job_acts
set result = $2
where act_id = $1`

// record stores the result of a run, also when ctx has ended.
func record(ctx context.Context, pool *pgxpool.Pool, sql string, args ...any) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if _, err := pool.Exec(ctx, sql, args...); err != nil {
		return fmt.Errorf("record the result of a job: %w", err)
	}
	return nil
}

// RunOnce runs a job now for a person and waits for its end. It waits while the
// job runs elsewhere. Who runs it is recorded before it starts.
func RunOnce(ctx context.Context, pool *pgxpool.Pool, j Job, who string) error {
	var act int64
	if err := pool.QueryRow(ctx, actSQL, j.Name, "run", who, nil).Scan(&act); err != nil {
		return fmt.Errorf("record who runs job %s: %w", j.Name, err)
	}
	err := execute(ctx, pool, j, Slot{At: time.Now().UTC(), ByHand: true}, true)
	result := "done"
	if err != nil {
		err = fmt.Errorf("job %s: %w", j.Name, err)
		result = cli.OneLine(err)
	}
	return errors.Join(err, record(ctx, pool, actResultSQL, act, result))
}
