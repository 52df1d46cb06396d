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

	"github.com/google/go-cmp/cmp"
)

// raced is a bench with little to do, whose figures mean nothing.
func raced(dir string, more ...string) []string {
	return append([]string{"bench", "--events", "2000", "--rounds", "1", "--span", "600ms", "--stored", "1000,2000", "--customers", "20,300", "--audited", "1000,2000", "--data-dir", dir}, more...)
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

// The races end, verify the books, and leave nothing behind.
func TestBenchRuns(t *testing.T) {
	t.Parallel()
	dir := benchDir(t)
	cmd := program(t, nil, raced(dir, "--full", "--json")...)
	var progress bytes.Buffer
	cmd.Stderr = &progress
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	var report benchReport
	if err := json.Unmarshal(out, &report); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if len(report.Write) != 6 || len(report.Latency) != 2 || len(report.Ingest) != 5 || len(report.Query) != 3 || len(report.Reporter) != 2 || len(report.Audit) != 2 || len(report.Growth) != 2 {
		t.Errorf("lines are missing:\n%s", out)
	}
	for _, l := range report.Write {
		if l.EventsPerSecond <= 0 || l.OfNaive <= 0 || l.OfCopy <= 0 {
			t.Errorf("%s has no rate:\n%s", l.Contestant, out)
		}
	}
	for _, l := range report.Audit {
		if l.ReadPerSecond <= 0 || l.StreamOfRead <= 0 || l.SumPerSecond <= 0 || l.CountersOfSum <= 0 {
			t.Errorf("the audit of %d events has no rate:\n%s", l.Events, out)
		}
	}
	wantEmpty(t, dir)
}

// Ctrl-C in the middle leaves nothing behind either, and is no success.
func TestBenchStopsWhenInterrupted(t *testing.T) {
	t.Parallel()
	dir := benchDir(t)
	cmd := program(t, nil, raced(dir, "--events", "1000000", "--only", "write")...)
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

func TestDelayEndsWithTheFirstSighting(t *testing.T) {
	begin := time.Now()
	at := func(ms int) time.Time { return begin.Add(time.Duration(ms) * time.Millisecond) }
	seen := [][]sighting{
		{{at(0), 0}, {at(5), 3}, {at(9), 8}},
		{{at(0), 2}},
	}
	published := []publication{
		{at: at(1), partition: 0, seq: 1},
		{at: at(1), partition: 0, seq: 3},
		{at: at(2), partition: 0, seq: 4},
		{at: at(0), partition: 1, seq: 2},
	}
	got, err := delayOf(published, seen)
	want := []time.Duration{4 * time.Millisecond, 4 * time.Millisecond, 7 * time.Millisecond, 0}
	if err != nil || !cmp.Equal(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	if _, err := delayOf([]publication{{at: at(1), partition: 1, seq: 3}}, seen); err == nil {
		t.Error("a message that was never counted has a delay")
	}
}

func TestRatiosAreTakenByRound(t *testing.T) {
	itself := func(f float64) float64 { return f }
	// The second round met a machine that was half as fast.
	if got := medianRatio([]float64{200, 100, 220}, []float64{20, 10, 20}, itself); got != 10 {
		t.Errorf("got %v, want 10", got)
	}
	if got := median([]float64{4, 1, 3, 2}, itself); got != 2.5 {
		t.Errorf("got %v, want 2.5", got)
	}
}

func TestParseStat(t *testing.T) {
	const line = "4711 (postgres: (x) y) S 12 4711 4711 0 -1 4194304 5 6 7 8 150 50 30 20 20 0 1 0 99 1 2"
	want := processTime{pid: 4711, parent: 12, own: 2 * time.Second, ended: 500 * time.Millisecond}
	if got, ok := parseStat(line); !ok || got != want {
		t.Errorf("got %+v, %v; want %+v", got, ok, want)
	}
	for _, line := range []string{"", "1", "1 (x) S", "1 (x S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15"} {
		if got, ok := parseStat(line); ok {
			t.Errorf("%q was read as %+v", line, got)
		}
	}
}

// What is repeated was there before, each once, or the race is no race.
func TestRepeatsWerePublishedBefore(t *testing.T) {
	const n = 1000
	list, fresh := newWorkload(10).repeated(n, repeats)
	if len(list) != n || fresh != 50 {
		t.Fatalf("%d events of which %d are new; want %d and 50", len(list), fresh, n)
	}
	seen := map[int]bool{}
	old := 0
	for _, i := range list {
		if seen[i] {
			t.Errorf("event %d comes twice", i)
		}
		seen[i] = true
		if i < n {
			old++
		}
	}
	if old != n-fresh {
		t.Errorf("%d are repeats, want %d", old, n-fresh)
	}
}
