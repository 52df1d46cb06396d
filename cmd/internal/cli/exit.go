// Package cli holds what the commands of odometer share: settings that several
// commands have, how values are read from flags and variables, how results and
// errors are printed, and the exit codes that the contract promises.
package cli

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

// ErrFindings ends a command whose finding is already on the terminal.
var ErrFindings = errors.New("found or left something")

// UsageError is what the caller can correct: wrong usage or configuration.
type UsageError struct{ Err error }

func (e UsageError) Error() string { return e.Err.Error() }

func (e UsageError) Unwrap() error { return e.Err }

// Usagef is a usage error: exit code 2.
func Usagef(format string, args ...any) error { return UsageError{Err: fmt.Errorf(format, args...)} }

// Unreachable is a dependency that did not answer.
type Unreachable struct{ Err error }

func (e Unreachable) Error() string { return e.Err.Error() }

func (e Unreachable) Unwrap() error { return e.Err }

// ExitCode maps every error to the exit code of the process.
func ExitCode(err error) int {
	var network *net.OpError
	var connect *pgconn.ConnectError
	switch {
	case errors.Is(err, ErrFindings):
		return ExitFound
	case errors.Is(err, query.ErrNotRead):
		return ExitUnreachable // counting is behind the stream: it is the aggregator that does not answer
	case errors.As(err, new(UsageError)),
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
		return ExitUsage
	case errors.As(err, new(Unreachable)),
		errors.As(err, &connect),
		errors.As(err, &network),
		errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, nats.ErrNoServers),
		errors.Is(err, nats.ErrTimeout),
		errors.Is(err, nats.ErrNoResponders),
		errors.Is(err, publisher.ErrNoStream),
		errors.Is(err, reporter.ErrUnreachable):
		return ExitUnreachable
	}
	return ExitFound
}

// OneLine is the error on one line.
func OneLine(err error) string {
	return strings.Join(strings.Fields(err.Error()), " ")
}

// Exit codes, as the contract promises them.
const (
	ExitDone        = 0
	ExitFound       = 1 // something was found or left over
	ExitUsage       = 2 // wrong usage or configuration, or the schema is behind
	ExitUnreachable = 3 // a dependency could not be reached
)
