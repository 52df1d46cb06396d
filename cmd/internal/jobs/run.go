package jobs

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer/cmd/internal/cli"
)

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
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
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
