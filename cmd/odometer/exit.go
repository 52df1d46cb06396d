package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/nats-io/nats.go"

	"odometer/aggregator"
	"odometer/aggregator/position"
	"odometer/aggregator/replay"
	"odometer/billing"
	"odometer/ingest"
	"odometer/ingest/publisher"
	"odometer/migrations"
	"odometer/query"
	"odometer/reporter"
)

// errSaid ends a command whose finding is already on the terminal.
var errSaid = errors.New("found or left something")

// usageError is what the one who called can mend.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// unreachable is a dependency that did not answer.
type unreachable struct{ error }

func (e unreachable) Unwrap() error { return e.error }

// exitCode is the one table of what an error means to whoever called.
func exitCode(err error) int {
	var network *net.OpError
	var connect *pgconn.ConnectError
	switch {
	case errors.Is(err, errSaid):
		return exitFound
	case errors.Is(err, query.ErrNotRead):
		return exitUnreachable // the books are behind the stream: it is the aggregator that does not answer
	case errors.As(err, new(usageError)),
		errors.Is(err, migrations.ErrBehind),
		errors.Is(err, migrations.ErrWouldDestroy),
		errors.Is(err, billing.ErrRefused),
		errors.Is(err, billing.ErrNoSubscription),
		errors.Is(err, billing.ErrNoCatalogue),
		errors.Is(err, aggregator.ErrUnfit),
		errors.Is(err, position.ErrNeverRead),
		errors.Is(err, replay.ErrUnfit),
		errors.Is(err, ingest.ErrStreamUnfit),
		errors.Is(err, reporter.ErrKeyRefused),
		errors.Is(err, reporter.ErrMixed),
		errors.As(err, new(*billing.InUseError)),
		errors.As(err, new(*query.Refusal)):
		return exitUsage
	case errors.As(err, new(unreachable)),
		errors.As(err, &connect),
		errors.As(err, &network),
		errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, nats.ErrNoServers),
		errors.Is(err, nats.ErrTimeout),
		errors.Is(err, nats.ErrNoResponders),
		errors.Is(err, publisher.ErrNoStream),
		errors.Is(err, reporter.ErrUnreachable):
		return exitUnreachable
	}
	return exitFound
}

// oneLine is an error as a tired operator can read it.
func oneLine(err error) string {
	return strings.Join(strings.Fields(err.Error()), " ")
}
