package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"odometer/cmd/internal/app"
	"odometer/cmd/internal/cli"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// demoProcess is a demo in a process of its own, with its temporary files in dir.
type demoProcess struct {
	cmd        *exec.Cmd
	dir        string
	out        io.ReadCloser
	lines      *bufio.Scanner
	url, token string
	err        bytes.Buffer
}

var usageLine = regexp.MustCompile(`^usage API .*Bearer ([^']+)' (http://[^/]+)/`)

// startDemo starts a demo and waits until the demo has said where its API is.
func startDemo(t *testing.T, args ...string) *demoProcess {
	t.Helper()
	// Not t.TempDir, whose parent is closed to the user that Postgres may run as.
	dir, err := os.MkdirTemp("", "odometer-demo-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := &demoProcess{dir: dir, cmd: program(t, []string{"TMPDIR=" + dir}, append([]string{"demo", "--addr", app.FreeAddress("127.0.0.1:0")}, args...)...)}
	if s.out, err = s.cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	s.cmd.Stderr = &s.err
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.cmd.Process.Signal(os.Interrupt); _ = s.cmd.Wait() })
	for s.lines = bufio.NewScanner(s.out); s.lines.Scan(); {
		if found := usageLine.FindStringSubmatch(s.lines.Text()); found != nil {
			s.token, s.url = found[1], found[2]
			return s
		}
	}
	t.Fatalf("the demo ended before it said where it is: %s", s.err.String())
	return nil
}

// rest is all that is said from now on, until the demo ends.
func (s *demoProcess) rest() string {
	var said strings.Builder
	for s.lines.Scan() {
		said.WriteString(s.lines.Text() + "\n")
	}
	return said.String()
}

// Another publisher uses the token that the demo prints.
func TestDemoCountsEventsOfOtherPublishers(t *testing.T) {
	t.Parallel()
	s := startDemo(t)
	body := `{"agent": "invoice", "idempotency_key": "another publisher's", "action_type": "invoice_detected", "quantity": 120}`
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/api/v1/events", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+s.token)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusAccepted {
		t.Fatalf("status %d", response.StatusCode)
	}
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	said := s.rest()
	if err := s.cmd.Wait(); err != nil || strings.Contains(said, "DIFFERENT") || !regexp.MustCompile(`others published +120\b`).MatchString(said) {
		t.Errorf("%v\n%s%s", err, said, s.err.String())
	}
}

// As in the README.
func TestDrillFindsAndRepairsEachDamage(t *testing.T) {
	t.Parallel()
	s := startDemo(t, "--for", "20s", "--drill")
	said := s.rest()
	err := s.cmd.Wait()
	_, table, _ := strings.Cut(said, "found as")
	if err != nil || strings.Count(table, " equal ") != 6 || strings.Contains(table, "NOT NAMED RIGHT") {
		t.Errorf("%v\n%s%s", err, said, s.err.String())
	}
}

// As in odometer demo | head.
func TestDemoCleansUpWhenItsOutputIsClosed(t *testing.T) {
	t.Parallel()
	s := startDemo(t)
	if err := s.out.Close(); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := s.cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != cli.ExitFound || strings.Count(s.err.String(), "\n") != 1 || !strings.Contains(s.err.String(), "broken pipe") {
		t.Errorf("%v; it said %q", err, s.err.String())
	}
	s.expectNothingLeft(t)
}

func TestDemoCleansUpWhenItsTerminalIsClosed(t *testing.T) {
	t.Parallel()
	s := startDemo(t)
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	said := s.rest()
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("%v\n%s%s", err, said, s.err.String())
	}
	s.expectNothingLeft(t)
}

func (s *demoProcess) expectNothingLeft(t *testing.T) {
	t.Helper()
	left, err := os.ReadDir(s.dir)
	if err != nil || len(left) > 0 {
		t.Errorf("it left %v behind, %v", left, err)
	}
}
