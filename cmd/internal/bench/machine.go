package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
)

// machine is what the figures were measured on.
type machine struct {
	CPU          string  `json:"cpu"`
	Cores        int     `json:"cores"`
	MemoryBytes  int64   `json:"memory_bytes"`
	OS           string  `json:"os"`
	Go           string  `json:"go"`
	Postgres     string  `json:"postgres"`
	NATS         string  `json:"nats"`
	SyncMicros   float64 `json:"sync_us"`      // one sync of 8 kB, median
	LoadAtStart  string  `json:"load_average"` // over 1, 5 and 15 minutes; "" when it is not known
	SharedBuffer string  `json:"shared_buffers"`
}

func (e *environment) machine(ctx context.Context) (machine, error) {
	m := machine{
		CPU: valueOf("/proc/cpuinfo", "model name"), Cores: runtime.NumCPU(), MemoryBytes: memoryBytes(),
		OS: runtime.GOOS + "/" + runtime.GOARCH, Go: runtime.Version(), NATS: natsserver.VERSION,
	}
	if m.CPU == "" {
		m.CPU = runtime.GOARCH
	}
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.LoadAtStart = strings.Join(strings.Fields(string(text))[:3], " ")
	}
	err := e.admin.QueryRow(ctx, `select current_setting('server_version'), current_setting('shared_buffers')`).Scan(&m.Postgres, &m.SharedBuffer)
	if err != nil {
		return m, fmt.Errorf("ask Postgres for its version: %w", err)
	}
	took, err := timeSync(e.dir)
	m.SyncMicros = float64(took.Nanoseconds()) / 1e3
	return m, err
}

// memoryBytes is the machine's memory; where it is not known, what any has.
func memoryBytes() int64 {
	return max(kilobytes(valueOf("/proc/meminfo", "MemTotal")), 4<<30)
}

// valueOf reads a line "name : value" of a file, "" when there is none.
func valueOf(file, name string) string {
	text, _ := os.ReadFile(file)
	for line := range strings.Lines(string(text)) {
		if n, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(n) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// kilobytes reads "123 kB" as bytes, 0 when it is no such text.
func kilobytes(text string) int64 {
	n, _ := strconv.ParseInt(strings.TrimSuffix(text, " kB"), 10, 64)
	return n << 10
}

// timeSync is how long the disk under dir takes to hold 8 kB for good, as for
// a transaction's log: the median of many.
func timeSync(dir string) (time.Duration, error) {
	file, err := os.CreateTemp(dir, "sync-")
	if err != nil {
		return 0, fmt.Errorf("time a sync: %w", err)
	}
	defer os.Remove(file.Name())
	defer file.Close()
	page := make([]byte, 8<<10)
	var took []time.Duration
	for i := range 220 {
		begin := time.Now()
		if _, err := file.WriteAt(page, 0); err != nil {
			return 0, fmt.Errorf("time a sync: %w", err)
		}
		if err := syncData(file); err != nil {
			return 0, fmt.Errorf("time a sync: %w", err)
		}
		if i >= 20 { // the first ones also make the file
			took = append(took, time.Since(begin))
		}
	}
	return percentile(took, 0.5), nil
}

// cpuTimes reads the CPU time so far: of this process, of each child, and of
// the postmaster with all its backends, those that have ended included.
func (e *environment) cpuTimes(children []*process) measurement {
	m := measurement{children: make([]time.Duration, len(children))}
	if len(children) > 0 {
		m.peak = peakMemory(children[0].pid())
	}
	postmaster := e.postgres.PID()
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		p, ok := parseStat(string(text))
		if !ok {
			continue
		}
		switch p.pid {
		case os.Getpid():
			m.here += p.own
		case postmaster:
			m.postgres += p.own + p.ended
		}
		if p.parent == postmaster {
			m.postgres += p.own
		}
		for i, child := range children {
			if p.pid == child.pid() {
				m.children[i] = p.own
			}
		}
	}
	return m
}

// processTime is a process's line in /proc: own CPU time, and that of children
// that have ended.
type processTime struct {
	pid, parent int
	own, ended  time.Duration
}

// clockTick is the unit of CPU times in /proc: 100 a second on every Linux.
const clockTick = 10 * time.Millisecond

// parseStat reads /proc/PID/stat. The name, in brackets, may hold anything.
func parseStat(text string) (p processTime, ok bool) {
	number, rest, found := strings.Cut(text, " (")
	end := strings.LastIndex(rest, ") ")
	if !found || end < 0 {
		return p, false
	}
	// From the state on: man 5 proc counts it as the third field.
	fields := strings.Fields(rest[end+2:])
	if len(fields) < 15 {
		return p, false
	}
	integer := func(s string) int {
		n, err := strconv.Atoi(s)
		ok = ok && err == nil
		return n
	}
	ok = true
	p.pid, p.parent = integer(number), integer(fields[1])
	p.own = time.Duration(integer(fields[11])+integer(fields[12])) * clockTick
	p.ended = time.Duration(integer(fields[13])+integer(fields[14])) * clockTick
	return p, ok
}

// peakMemory is the most memory that a process ever held, 0 when not known.
func peakMemory(pid int) int64 {
	return kilobytes(valueOf(fmt.Sprintf("/proc/%d/status", pid), "VmHWM"))
}
