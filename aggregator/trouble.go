package aggregator

import (
	"errors"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Reasons for which a session, or a batch, begins again.
var (
	errGained       = errors.New("a further partition became free")
	errMoved        = errors.New("the position was moved by another reader")
	errRulesChanged = errors.New("the terms have changed")
	errStream       = errors.New("the stream is not the one that was attached")
)

// errNATS marks trouble with the stream, as against the database.
type errNATS struct{ error }

func (e errNATS) Unwrap() error { return e.error }

func natsError(err error) error {
	if err == nil {
		return nil
	}
	return errNATS{err}
}

// trouble names what a session waits for, so that a log line is written when
// it changes and not at each attempt.
func trouble(err error) string {
	switch {
	case errors.As(err, new(errNATS)), errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, jetstream.ErrNoStreamResponse):
		return "NATS"
	case errors.Is(err, errMoved):
		return "its place: another reader moved it"
	default:
		return "Postgres"
	}
}

// poison reports whether Postgres refused the content of a batch (SQLSTATE
// class 22 or 23): trying again cannot help, finding the message can.
func poison(err error) (*pgconn.PgError, bool) {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || len(pg.Code) != 5 {
		return nil, false
	}
	// A counter that somebody else has made is no fault of a message.
	class := pg.Code[:2]
	return pg, (class == "22" || class == "23") && pg.ConstraintName != "usage_counters_pkey"
}
