package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"odometer/cmd/internal/cli"
	"odometer/migrations/pgtest"
)

// asProgram makes the test binary behave as odometer itself, so that tests can
// start and kill the real process.
const asProgram = "ODOMETER_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		listenToHangup()
		main()
	}
	pgtest.Main(m)
}

// listenToHangup makes SIGHUP count in a process that the tests start, also when
// the tests themselves run under nohup, which has it ignored.
func listenToHangup() {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	signal.Reset(syscall.SIGHUP)
}

// program is a command line of odometer as a process of its own.
func program(t *testing.T, env []string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(append(os.Environ(), asProgram+"=1"), env...)
	return cmd
}

// answer is what a command did.
type answer struct {
	code     int
	out, err string
}

// odometerDoes runs a command inside the test process.
func odometerDoes(t *testing.T, args ...string) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out, err bytes.Buffer
	code := Main(ctx, args, &out, &err)
	return answer{code, out.String(), err.String()}
}

// must fails the test when a command does not exit with 0.
func must(t *testing.T, args ...string) string {
	t.Helper()
	a := odometerDoes(t, args...)
	if a.code != cli.ExitDone {
		t.Fatalf("odometer %s: exit %d: %s", strings.Join(args, " "), a.code, a.err)
	}
	return a.out
}
