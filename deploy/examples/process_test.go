package examples_test

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// soon bounds every wait for something that must happen.
const soon = time.Minute

func command(t *testing.T, dir string, argv ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Dir = dir
	return cmd
}

// run runs a command to its end, which must be a good one, and returns what it
// printed.
func run(t *testing.T, dir string, argv ...string) string {
	t.Helper()
	out, err := command(t, dir, argv...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

// process is a program that runs beside the test.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines chan string // what it prints; closed when it has ended
}

func start(t *testing.T, dir string, env []string, argv ...string) *process {
	t.Helper()
	cmd := command(t, dir, argv...)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a shell is killed with what it started
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = write, write
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v; install it, the examples need it", argv[0], err)
	}
	write.Close()
	p := &process{t: t, cmd: cmd, lines: make(chan string, 10_000)}
	go p.read(read)
	return p
}

func (p *process) read(from io.ReadCloser) {
	defer from.Close()
	defer close(p.lines)
	scanner := bufio.NewScanner(from)
	for scanner.Scan() {
		p.lines <- scanner.Text()
	}
}

// waitForLine returns the next line that has text in it.
func (p *process) waitForLine(text string) string {
	p.t.Helper()
	deadline := time.After(soon)
	var before []string
	for {
		select {
		case line, ok := <-p.lines:
			if strings.Contains(line, text) {
				return line
			}
			if !ok {
				p.t.Fatalf("it ended without printing %q, but\n%s", text, strings.Join(before, "\n"))
			}
			before = append(before, line)
		case <-deadline:
			p.t.Fatalf("not within %s: %q; printed were\n%s", soon, text, strings.Join(before, "\n"))
		}
	}
}

// kill ends it, and what it started, as a power cut would.
func (p *process) kill() {
	p.t.Helper()
	if err := syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL); err != nil {
		p.t.Fatal(err)
	}
	_ = p.cmd.Wait() // an error: it was killed
}

// waitForEnd returns the rest of what it prints, and its exit code.
func (p *process) waitForEnd() (out []string, code int) {
	p.t.Helper()
	deadline := time.After(soon)
	for {
		select {
		case line, ok := <-p.lines:
			if !ok {
				_ = p.cmd.Wait() // the exit code is read below
				return out, p.cmd.ProcessState.ExitCode()
			}
			out = append(out, line)
		case <-deadline:
			p.t.Fatalf("not ended within %s; printed were\n%s", soon, strings.Join(out, "\n"))
		}
	}
}

// next receives what must come.
func next[T any](t *testing.T, from <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-from:
	case <-time.After(soon):
		t.Fatalf("not within %s: %s", soon, what)
	}
	return v
}
