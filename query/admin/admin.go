// Package admin answers operators: the state of the whole installation, the
// usage of each tenant, what was not counted and why, jobs, audits and findings,
// and what was reported to Stripe. It serves GET and POST /api/v1/admin/….
//
// What it guarantees:
//
//   - It changes no event, counter or ledger entry. Actions (a retry, a pause, a
//     resolved finding) are done by the package that owns them, and are recorded
//     with who did them.
//   - Every list is bounded, and shows that it leaves something out: by a cursor,
//     a total, or a limit that the documentation names.
//   - What is not known is null, never 0: a partition that was never read, a
//     stream that this process has no connection to.
//   - No credential is read here, so none can be shown. What an agent sent is
//     shown as text only where that is harmless.
//
// Tables are read with this package's own SQL; code of other packages comes in
// by [Options].
//
//	admin.go        options, jobs, and what all files share
//	overview.go     the whole installation, with the lag of the stream;
//	                totals.go the sums over all batches
//	tenants.go      the list of tenants; tenant.go each of them, and their alerts
//	dead_letters.go dead letters; dead_letters_retry.go retries them
//	findings.go     findings, resolving them, and the last audit
//	ledger.go       what was reported to Stripe
//	routes.go       all of it over HTTP; examples.go its documentation's examples
package admin

import (
	"context"
	"errors"
	"time"
	"unicode"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
	"odometer/api"
)

// ErrNoJob is SetPaused's error for an unknown job.
var ErrNoJob = errors.New("no such job")

// Options configure the operators' API. All but StreamEnd and Waiting are
// required.
type Options struct {
	Pool *pgxpool.Pool

	// RetryDeadLetters retries open dead letters and returns the outcome of each.
	RetryDeadLetters func(ctx context.Context, ids []odometer.Position, who string) ([]DeadLetterOutcome, error)

	// Jobs lists the scheduled jobs.
	Jobs func(ctx context.Context) ([]Job, error)

	// SetPaused pauses or resumes a job and records who did it. It returns
	// ErrNoJob for an unknown name.
	SetPaused func(ctx context.Context, job string, paused bool, who string) error

	// StreamEnd is the stream's last sequence; nil in a process that has no
	// NATS.
	StreamEnd func(ctx context.Context) (int64, error)

	// Waiting is how many messages of a partition the stream holds after one
	// sequence and through another. It is set where StreamEnd is.
	Waiting func(ctx context.Context, partition int, after, through int64) (int64, error)
}

// server answers operators.
type server struct {
	Options
	totals       batchTotals
	overviews    cached[*Overview]
	tenantTotals cached[tenantTotals]
}

func newServer(o Options) *server {
	return &server{Options: o, overviews: newCached[*Overview](), tenantTotals: newCached[tenantTotals]()}
}

// cached is a value that is loaded for many requests at once.
type cached[T any] struct {
	turn  chan struct{} // full while a request loads the value
	at    time.Time
	value T
}

func newCached[T any]() cached[T] { return cached[T]{turn: make(chan struct{}, 1)} }

// get returns the value if it is younger than age, else loads it: by one request
// at a time, while the others wait.
func (r *cached[T]) get(ctx context.Context, age time.Duration, load func(context.Context) (T, error)) (T, error) {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return *new(T), ctx.Err()
	}
	if !r.at.IsZero() && time.Since(r.at) < age {
		return r.value, nil
	}
	at := time.Now()
	value, err := load(ctx)
	if err == nil {
		r.at, r.value = at, value
	}
	return value, err
}

// planned makes Postgres plan a statement with optional conditions for those that
// are given: a plan that fits all of them reads the whole table.
const planned = pgx.QueryExecModeCacheDescribe

// onlyTenant reads a parameter that names a tenant; nil: all of them.
func onlyTenant(id string) (*uuid.UUID, error) {
	if id == "" {
		return nil, nil
	}
	tenant, err := namedTenant(id)
	return &tenant, err
}

func namedTenant(id string) (uuid.UUID, error) {
	tenant, ok := api.ParseTenant(id)
	if !ok {
		return uuid.Nil, api.NewProblem(api.InvalidRequest, "tenant_id is %q: it must be a UUID, as 0b7e4d1c-6f0e-4a53-9d55-3c1c0a3f7e01.", id)
	}
	return tenant, nil
}

// readCursor is the position of a cursor in a list; nil: the beginning.
func readCursor[P any](cursor string, list ...string) (*P, error) {
	if cursor == "" {
		return nil, nil
	}
	position, ok := api.ReadCursor[P](cursor, list...)
	if !ok {
		return nil, badCursor(cursor)
	}
	return &position, nil
}

func badCursor(cursor string) error {
	return api.NewProblem(api.InvalidRequest, "cursor is %q: it must be the next_cursor of a page of the same list. Leave it out to start at the beginning.", cursor)
}

// checkText rejects text that the database cannot hold or that cannot be read.
func checkText(name, text string) error {
	for _, r := range text {
		if r == unicode.ReplacementChar || unicode.IsControl(r) {
			return api.NewProblem(api.InvalidRequest, "%s is %q: it must be UTF-8 without control characters.", name, text)
		}
	}
	return nil
}

// inUTC converts times of the database, which are in the process's zone, to UTC.
func inUTC(times ...*time.Time) {
	for _, t := range times {
		if t != nil {
			*t = t.UTC()
		}
	}
}

// Job is a scheduled job.
type Job struct {
	Name          string     `json:"name"`
	DueAt         time.Time  `json:"due_at" doc:"In the past when nobody runs it."`
	LastStartedAt *time.Time `json:"last_started_at"`
	LastSuccessAt *time.Time `json:"last_success_at"`
	LastError     *string    `json:"last_error" doc:"Of the last run; null when it succeeded."`
	Paused        bool       `json:"paused"`
	LastAct       *JobAction `json:"last_act" doc:"The last action of an operator on it."`
}

// JobAction is an operator's action on a job.
type JobAction struct {
	Act    string    `json:"act" enum:"run,pause,resume"`
	Who    string    `json:"who"`
	At     time.Time `json:"at"`
	Result *string   `json:"result" doc:"Null while it goes on."`
}

// JobList is all scheduled jobs.
type JobList struct {
	Jobs []Job `json:"jobs"`
}

// JobState is whether a job is paused.
type JobState struct {
	Job    string `json:"job"`
	Paused bool   `json:"paused"`
}

func (s *server) jobs(ctx context.Context) (*JobList, error) {
	jobs, err := s.Jobs(ctx)
	if err != nil {
		return nil, err
	}
	if jobs == nil {
		jobs = []Job{}
	}
	return &JobList{jobs}, nil
}

// pause pauses or resumes a job. Doing it twice changes nothing.
func (s *server) pause(ctx context.Context, job string, paused bool, who string) (*JobState, error) {
	switch err := s.SetPaused(ctx, job, paused, who); {
	case errors.Is(err, ErrNoJob):
		return nil, noJob(job)
	case err != nil:
		return nil, err
	}
	return &JobState{job, paused}, nil
}

func noJob(name string) *api.Problem {
	return api.NewProblem(api.NotFound, "There is no job %q. GET /api/v1/admin/jobs lists them.", name)
}
