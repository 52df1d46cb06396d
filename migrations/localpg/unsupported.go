//go:build !unix

package localpg

import (
	"context"
	"errors"
)

var errUnsupported = errors.New("a private PostgreSQL cannot be started on this operating system: give the URL of a database")

// Server is a private PostgreSQL; see the Unix files for what it does.
type Server struct{}

// Start says that there is no private PostgreSQL here.
func Start(context.Context, Options) (*Server, error) { return nil, errUnsupported }

// URL is empty: no Server exists on this operating system.
func (*Server) URL() string { return "" }

// PID is 0: no Server exists on this operating system.
func (*Server) PID() int { return 0 }

// Stop does nothing.
func (*Server) Stop() error { return nil }

// Kill does nothing.
func (*Server) Kill() error { return errUnsupported }

// Restart does nothing.
func (*Server) Restart(context.Context) error { return errUnsupported }
