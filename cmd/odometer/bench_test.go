package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"odometer/cmd/internal/cli"
)

// smallBench is a bench with little to do, whose figures mean nothing.
func smallBench(dir string, more ...string) []string {
	return append([]string{"bench", "--events", "400", "--rounds", "1", "--span", "300ms", "--stored", "200,400", "--audited", "200,400", "--data-dir", dir}, more...)
}

// benchDir is a directory that other users may pass through: started by root,
// Postgres runs as one of them.
func benchDir(t *testing.T) string {
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// The benchmarks end, verify the counts, and leave nothing behind.
func TestBenchRuns(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("runs every benchmark")
	}
	dir := benchDir(t)
	cmd := program(t, nil, smallBench(dir, "--full", "--json")...)
	var progress bytes.Buffer
	cmd.Stderr = &progress
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	var report map[string]json.RawMessage
	if err := json.Unmarshal(out, &report); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for name, want := range map[string]struct {
		lines   int
		figures []string // that every line has
	}{
		"write":   {6, []string{"events_per_second", "of_naive_1_connection", "of_copy"}},
		"latency": {2, []string{"events_per_second", "visible_p50_ms"}},
		"ingest":  {5, []string{"acknowledged_per_second", "request_p50_ms"}},
		"query":   {3, []string{"requests_per_second", "of_select_1"}},
		"audit":   {2, []string{"read_messages_per_second", "stream_side_of_read", "sum_rows_per_second", "counters_side_of_sum"}},
		"growth":  {2, []string{"events_per_second_steady"}},
	} {
		var lines []map[string]any
		if err := json.Unmarshal(report[name], &lines); err != nil || len(lines) != want.lines {
			t.Errorf("%s has %d lines, want %d: %v\n%s", name, len(lines), want.lines, err, out)
		}
		for _, line := range lines {
			for _, figure := range want.figures {
				if f, ok := line[figure].(float64); !ok || f <= 0 {
					t.Errorf("%s: %s is %v\n%s", name, figure, line[figure], out)
				}
			}
		}
	}
	wantEmpty(t, dir)
}

func TestBenchNamesTheReportersBenchmark(t *testing.T) {
	t.Parallel()
	for only, says := range map[string]string{"reporter": "go test -run ^$ -bench Pass ./reporter", "reading": "want one or more of write,"} {
		got := odometerDoes(t, "bench", "--only", only)
		if got.code != cli.ExitUsage || !strings.Contains(got.err, says) {
			t.Errorf("--only %s: exit %d, %q", only, got.code, got.err)
		}
	}
}

// Ctrl-C in the middle leaves nothing behind either, and is no success.
func TestBenchStopsWhenInterrupted(t *testing.T) {
	t.Parallel()
	dir := benchDir(t)
	cmd := program(t, nil, smallBench(dir, "--events", "1000000", "--only", "write")...)
	progress, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 4096)
	for read := 0; !strings.Contains(string(said[:read]), "filling"); {
		n, err := progress.Read(said[read:])
		if err != nil {
			t.Fatalf("it ended early: %v: %s", err, said[:read])
		}
		read += n
	}
	time.Sleep(200 * time.Millisecond) // into the middle of it
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != cli.ExitFound {
		t.Errorf("interrupted, it ended with %v, want exit code %d", err, cli.ExitFound)
	}
	wantEmpty(t, dir)
}

func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("%s holds %v, %v; want nothing", dir, left, err)
	}
	cwds, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range cwds {
		if at, _ := os.Readlink(link); strings.HasPrefix(at, dir) {
			t.Errorf("process %s still works in %s", filepath.Dir(link), at)
		}
	}
}
