// Command withpostgres starts a PostgreSQL for tests, runs a command that finds
// it by ODOMETER_TEST_DATABASE_URL, stops it, and exits as the command did:
//
//	withpostgres go test ./...
//
// The test binaries of all packages then share one server, where each would
// start its own. The server listens on a Unix socket only and does not sync
// its disk; its data is in a temporary directory that is removed.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"odometer/migrations/pgtest"
)

func main() {
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "withpostgres:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// run returns the exit code of the command.
func run(command []string) (code int, err error) {
	if len(command) == 0 {
		return 2, errors.New("no command: withpostgres COMMAND [ARGUMENT...]")
	}
	// An interrupt from the terminal reaches the command too. We wait for its
	// end, because the server must outlive its clients.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	server, err := pgtest.Start(ctx, func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "withpostgres: "+format+"\n", args...)
	})
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()

	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Env = append(os.Environ(), pgtest.URLEnv+"="+server.URL())
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = cmd.Run()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), nil // -1: ended by a signal
	}
	return 0, err
}
