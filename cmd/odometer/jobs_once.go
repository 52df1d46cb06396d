package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"runtime/debug"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// errTaken means that somebody else is doing the job.
var errTaken = errors.New("the job is being done by another")

const tryJobSQL = `
select pg_try_advisory_lock(hashtextextended('odometer job ' || $1, 0))`

const unlockJobsSQL = `
select pg_advisory_unlock_all()`

// alone does something while nobody else does the same job, in whatever
// process. The lock has a connection of its own, outside the pool: jobs that
// hold the pool's connections while they wait for more of them would wait for
// ever. It ends with the process that held it. With patience it waits its turn,
// else it returns errTaken.
func alone(ctx context.Context, pool *pgxpool.Pool, name string, patient bool, do func() error) error {
	lock, err := pgx.ConnectConfig(ctx, pool.Config().ConnConfig)
	if err != nil {
		return fmt.Errorf("connect to lock job %s: %w", name, err)
	}
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_, _ = lock.Exec(last, unlockJobsSQL) // closing does it too, but a moment later
		_ = lock.Close(last)
	}()
	for {
		var got bool
		if err := lock.QueryRow(ctx, tryJobSQL, name).Scan(&got); err != nil {
			return fmt.Errorf("lock job %s: %w", name, err)
		}
		if got {
			return do()
		}
		if !patient {
			return errTaken
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// execute does a job once, alone, and writes down how it went.
func execute(ctx context.Context, pool *pgxpool.Pool, j job, s slot, patient bool) error {
	return alone(ctx, pool, j.name, patient, func() error {
		if err := jobBegan(ctx, pool, j.name); err != nil {
			return err
		}
		err := guarded(ctx, j, s)
		if err != nil && errors.Is(ctx.Err(), context.Canceled) {
			return fmt.Errorf("told to stop: %w", context.Canceled) // neither a success nor a failure
		}
		failed := err
		if errors.Is(err, errSaid) {
			failed = nil // the job is done; what it found is somebody's to mend
		}
		return errors.Join(err, jobEnded(ctx, pool, j.name, failed))
	})
}

// guarded runs the job; a panic is an error of this job alone.
func guarded(ctx context.Context, j job, s slot) (err error) {
	ctx, cancel := context.WithTimeout(ctx, j.timeout())
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return j.run(ctx, s)
}

const jobBeganSQL = `
insert into jobs (job, last_started_at)
values ($1, now())
on conflict (job) do update
set last_started_at = excluded.last_started_at`

func jobBegan(ctx context.Context, pool *pgxpool.Pool, name string) error {
	if _, err := pool.Exec(ctx, jobBeganSQL, name); err != nil {
		return fmt.Errorf("write down that job %s began: %w", name, err)
	}
	return nil
}

const jobEndedSQL = `
update jobs
set last_success_at = case when $2 = '' then now() else last_success_at end,
    last_error = nullif($2, '')
where job = $1`

// jobEnded writes down how a run went, also when its time is up.
func jobEnded(ctx context.Context, pool *pgxpool.Pool, name string, result error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if _, err := pool.Exec(ctx, jobEndedSQL, name, textOf(result)); err != nil {
		return fmt.Errorf("write down how job %s went: %w", name, err)
	}
	return nil
}

// textOf is an error as the tables keep it.
func textOf(err error) string {
	if err == nil {
		return ""
	}
	return oneLine(err)
}

const actSQL = `
insert into job_acts (job, act, who, result)
values ($1, $2, $3, $4)
returning act_id`

const actResultSQL = `
update job_acts
set result = $2
where act_id = $1`

// runJobOnce does the job of that name now, with its parts, for somebody: it
// waits its turn and for the end. Who wanted it is written down before it
// begins.
func runJobOnce(ctx context.Context, pool *pgxpool.Pool, jobs []job, name, who string) error {
	parts, err := withParts(jobs, name)
	if err != nil {
		return err
	}
	var act int64
	if err := pool.QueryRow(ctx, actSQL, name, "run", who, nil).Scan(&act); err != nil {
		return fmt.Errorf("write down who runs job %s: %w", name, err)
	}
	for _, j := range parts {
		if j.run == nil {
			err = errors.Join(err, usagef("job %s cannot be run with these settings", j.name))
			continue
		}
		if failed := execute(ctx, pool, j, slot{at: time.Now().UTC(), byHand: true}, true); failed != nil {
			err = errors.Join(err, fmt.Errorf("job %s: %w", j.name, failed))
		}
	}
	result := "done"
	if err != nil {
		result = textOf(err)
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if _, failed := pool.Exec(last, actResultSQL, act, result); failed != nil {
		err = errors.Join(err, fmt.Errorf("write down how job %s went: %w", name, failed))
	}
	return err
}

// operator is who sits at this terminal, as far as the system knows.
func operator() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	if name := os.Getenv("USER"); name != "" {
		return name
	}
	return "unknown"
}
