package main

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"odometer/cmd/internal/cli"

	"github.com/jedib0t/go-pretty/v6/table"
)

// benchReport is what the races found. Races that were not run are nil.
type benchReport struct {
	Machine  benchMachine   `json:"machine"`
	Rounds   int            `json:"rounds"`
	Write    []writeLine    `json:"write,omitempty"`
	Latency  []latencyLine  `json:"latency,omitempty"`
	Ingest   []ingestLine   `json:"ingest,omitempty"`
	Query    []queryLine    `json:"query,omitempty"`
	Reporter []reporterLine `json:"reporter,omitempty"`
	Audit    []auditLine    `json:"audit,omitempty"`
	Growth   []growthResult `json:"growth,omitempty"`
}

func (r *benchReport) print(t *cli.Terminal) {
	m := r.Machine
	fmt.Fprintf(t.Out, "%s, %d cores, %s memory, %s; PostgreSQL %s with shared_buffers %s, NATS %s, %s\n",
		m.CPU, m.Cores, bytesText(m.MemoryBytes), m.OS, m.Postgres, m.SharedBuffer, m.NATS, m.Go)
	fmt.Fprintf(t.Out, "one sync of 8 kB to disk takes %.0f µs; load average at the start %s\n\n", m.SyncMicros, cmp.Or(m.LoadAtStart, "not known"))
	printWrite(t, r.Write)
	printLatency(t, r.Latency)
	printIngest(t, r.Ingest)
	printQuery(t, r.Query)
	printReporter(t, r.Reporter)
	printAuditRace(t, r.Audit)
	printGrowth(t, r.Growth)
	fmt.Fprintf(t.Out, "Figures are medians of %d rounds. A ratio is taken within each round, where both sides met the same machine,\n"+
		"and is the median of those: it need not be the ratio of the figures beside it.\n", r.Rounds)
}

// median of values that are taken by get from each of all.
func median[T any](all []T, get func(T) float64) float64 {
	values := make([]float64, len(all))
	for i, one := range all {
		values[i] = get(one)
	}
	slices.Sort(values)
	switch n := len(values); {
	case n == 0:
		return 0
	case n%2 == 0:
		return (values[n/2-1] + values[n/2]) / 2
	default:
		return values[n/2]
	}
}

// medianRatio is the median of the ratios of all to base, round by round.
func medianRatio[T any](all, base []T, get func(T) float64) float64 {
	var ratios []float64
	for i := range all {
		if to := get(base[i]); to > 0 { // a pause of the machine gives no ratio
			ratios = append(ratios, get(all[i])/to)
		}
	}
	return median(ratios, func(r float64) float64 { return r })
}

// writeLine is a contestant's line in the table of the write race.
type writeLine struct {
	Contestant      string    `json:"contestant"`
	EventsPerSecond float64   `json:"events_per_second"`
	OfNaive         float64   `json:"of_naive_1_connection"`
	OfCopy          float64   `json:"of_copy"`
	CPUMicros       float64   `json:"cpu_us_per_event"`          // of all who took part; 0: not known
	PostgresMicros  float64   `json:"postgres_cpu_us_per_event"` // of them Postgres with all its backends
	ChildMicros     float64   `json:"process_cpu_us_per_event"`  // of them the contestant's own process, where it has one
	StoredBytes     float64   `json:"stored_bytes_per_event"`    // the table's and its indexes' growth, per event handled
	PeakMemory      int64     `json:"peak_memory_bytes"`         // of the contestant's own process, over all rounds
	Rounds          []float64 `json:"rounds"`                    // events per second
}

func writeTable(laps map[string][]lap) []writeLine {
	var lines []writeLine
	perEvent := func(cpu func(effort) time.Duration) func(lap) float64 {
		return func(l lap) float64 { return float64(cpu(l.effort).Nanoseconds()) / 1e3 / float64(l.events) }
	}
	for _, name := range []string{naiveOne, naiveFour, bareCopy, aggregatedOnce, aggregatedAgain, onlyRead} {
		all := laps[name]
		line := writeLine{
			Contestant: name, EventsPerSecond: median(all, lap.rate),
			OfNaive: medianRatio(all, laps[naiveOne], lap.rate), OfCopy: medianRatio(all, laps[bareCopy], lap.rate),
			CPUMicros:      median(all, perEvent(effort.whole)),
			PostgresMicros: median(all, perEvent(func(e effort) time.Duration { return e.postgres })),
			ChildMicros:    median(all, perEvent(func(e effort) time.Duration { return e.child })),
			StoredBytes:    median(all, func(l lap) float64 { return float64(l.stored) / float64(l.events) }),
		}
		for _, l := range all {
			line.PeakMemory = max(line.PeakMemory, l.peak)
			line.Rounds = append(line.Rounds, l.rate())
		}
		lines = append(lines, line)
	}
	return lines
}

func printWrite(t *cli.Terminal, lines []writeLine) {
	if lines == nil {
		return
	}
	var rows []table.Row
	for _, l := range lines {
		rows = append(rows, table.Row{
			l.Contestant, thousands(l.EventsPerSecond), ratioText(l.OfNaive), ratioText(l.OfCopy),
			orDash(l.CPUMicros, "%.1f"), orDash(l.PostgresMicros, "%.1f"), orDash(l.ChildMicros, "%.1f"),
			orDash(l.StoredBytes, "%.0f"), memoryText(l.PeakMemory),
		})
	}
	t.Table(table.Row{"write", "events/s", "x naive", "of COPY", "CPU µs/event", "Postgres", "own process", "stored B/event", "peak memory"},
		rows, 2, 3, 4, 5, 6, 7, 8, 9)
	fmt.Fprintln(t.Out, "CPU is all that took part (publishing is not in it): Postgres with its backends, the contestant's own process,\n"+
		"and the rest in this one: the NATS server, or who sends the rows. Stored is the table of events with its indexes.\n"+
		"Peak memory is the contestant's own process. Books were verified after every lap.")
	fmt.Fprintln(t.Out)
}

func bytesText(n int64) string { return fmt.Sprintf("%.0f GiB", float64(n)/(1<<30)) }

func memoryText(n int64) string { return orDash(float64(n)/(1<<20), "%.0f MiB") }

func ratioText(r float64) string {
	if r >= 10 {
		return fmt.Sprintf("%.0f", r)
	}
	return fmt.Sprintf("%.3g", r)
}

// orDash is a figure, or a dash for what is not known or does not exist.
func orDash(f float64, format string) string {
	if f == 0 {
		return "-"
	}
	return fmt.Sprintf(format, f)
}

// thousands writes a figure with a space between its thousands.
func thousands(f float64) string {
	text := fmt.Sprintf("%.0f", f)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + " " + text[i:]
	}
	return text
}
