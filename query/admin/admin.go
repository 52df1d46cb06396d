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

// ErrNoJob is what SetPaused says of a job that there is not.
var ErrNoJob = errors.New("no such job")

// Options are what the operators' API needs. All but StreamEnd and Waiting must
// be given.
type Options struct {
	Pool *pgxpool.Pool

	// RetryLetters judges open dead letters anew and tells of each.
	RetryLetters func(ctx context.Context, ids []odometer.Position, who string) ([]LetterOutcome, error)

	// Jobs lists the jobs that people know.
	Jobs func(ctx context.Context) ([]Job, error)

	// SetPaused pauses a job, or lets it be run again, and writes down who did
	// it. It returns ErrNoJob for a name that is no job's.
	SetPaused func(ctx context.Context, job string, paused bool, who string) error

	// StreamEnd is the stream's last sequence; nil in a process that has no
	// NATS.
	StreamEnd func(ctx context.Context) (int64, error)

	// Waiting is how many messages of a partition the stream holds after one
	// sequence and through another. It is there where StreamEnd is.
	Waiting func(ctx context.Context, partition int, after, through int64) (int64, error)
}

// server answers operators.
type server struct {
	Options
	totals   tally
	glance   remembered[*Overview]
	standing remembered[standing]
}

func newServer(o Options) *server {
	return &server{Options: o, glance: newRemembered[*Overview](), standing: newRemembered[standing]()}
}

// remembered is something that is not loaded anew for everybody who asks.
type remembered[T any] struct {
	turn  chan struct{} // holds one while somebody loads
	at    time.Time
	value T
}

func newRemembered[T any]() remembered[T] { return remembered[T]{turn: make(chan struct{}, 1)} }

// get is the value when it is younger than age, else it is loaded: by one at a
// time, while the others wait for it.
func (r *remembered[T]) get(ctx context.Context, age time.Duration, load func(context.Context) (T, error)) (T, error) {
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

// planned has a statement with optional conditions planned for the ones that are
// given: a plan that fits all of them walks through everything.
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

// placeIn is the place that a cursor names in a list; nil: the beginning.
func placeIn[P any](cursor string, list ...string) (*P, error) {
	if cursor == "" {
		return nil, nil
	}
	place, ok := api.ReadCursor[P](cursor, list...)
	if !ok {
		return nil, badCursor(cursor)
	}
	return &place, nil
}

func badCursor(cursor string) error {
	return api.NewProblem(api.InvalidRequest, "cursor is %q: it must be the next_cursor of a page of this very list. Leave it out to begin at the start.", cursor)
}

// clean refuses text that the database cannot hold, or nobody can read.
func clean(name, text string) error {
	for _, r := range text {
		if r == unicode.ReplacementChar || unicode.IsControl(r) {
			return api.NewProblem(api.InvalidRequest, "%s is %q: it must be UTF-8 without control characters.", name, text)
		}
	}
	return nil
}

// inUTC puts times of the database, which come in the process's zone, into the
// form of the API.
func inUTC(times ...*time.Time) {
	for _, t := range times {
		if t != nil {
			*t = t.UTC()
		}
	}
}
