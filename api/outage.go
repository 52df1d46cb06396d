package api

import (
	"context"
	"errors"
	"io"
	"net"

	"github.com/jackc/pgx/v5/pgconn"
)

// Unreachable reports whether an error of the database says that it is away,
// going or too busy, rather than that we asked something wrong.
func Unreachable(err error) bool {
	var answered *pgconn.PgError
	if errors.As(err, &answered) {
		return away(answered.Code)
	}
	var connecting *pgconn.ConnectError
	var network net.Error
	return errors.As(err, &connecting) || errors.As(err, &network) || pgconn.SafeToRetry(err) ||
		errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}

// away reports whether a SQLSTATE is an outage: connection exceptions,
// insufficient resources, an operator's intervention (a shutdown, a cancelled
// statement), and a database that is not there or does not let us in, which
// only a connection attempt can be told.
func away(code string) bool {
	switch code[:min(2, len(code))] {
	case "08", "53", "57":
		return true
	}
	return code == "3D000" || code == "28P01" || code == "28000"
}
