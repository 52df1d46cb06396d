package main

import (
	"fmt"
	"time"

	"odometer/cmd/internal/cli"

	"github.com/jedib0t/go-pretty/v6/table"
)

// reporterLine is the line of a number of customers in the reporter race.
type reporterLine struct {
	Customers      int       `json:"customers"`
	Told           int       `json:"told"`
	Seconds        float64   `json:"seconds"`
	PerSecond      float64   `json:"intents_per_second"`
	OfLatency      float64   `json:"of_what_latency_allows"`
	CPUMicros      float64   `json:"cpu_us_per_intent"`          // of all but the bench itself; 0: not known
	PostgresMicros float64   `json:"postgres_cpu_us_per_intent"` // of them Postgres with all its backends
	ChildMicros    float64   `json:"process_cpu_us_per_intent"`  // of them the reporter
	PeakMemory     int64     `json:"peak_memory_bytes"`          // of the reporter, over all rounds
	MemoryOfLeast  float64   `json:"peak_memory_of_first_size"`
	Rounds         []float64 `json:"rounds"` // intents per second
}

// tellCeiling is how many calls a second the latency alone allows.
const tellCeiling = float64(tellAtOnce) * float64(time.Second) / float64(tellLatency)

func reporterTable(sizes []int, all [][]passLap) []reporterLine {
	var lines []reporterLine
	perIntent := func(cpu func(effort) time.Duration) func(passLap) float64 {
		return func(l passLap) float64 { return float64(cpu(l.effort).Nanoseconds()) / 1e3 / float64(l.told) }
	}
	for i, laps := range all {
		line := reporterLine{
			Customers: sizes[i], Told: laps[0].told,
			Seconds:        median(laps, func(l passLap) float64 { return l.took.Seconds() }),
			PerSecond:      median(laps, passLap.rate),
			CPUMicros:      median(laps, perIntent(func(e effort) time.Duration { return e.child + e.postgres })),
			PostgresMicros: median(laps, perIntent(func(e effort) time.Duration { return e.postgres })),
			ChildMicros:    median(laps, perIntent(func(e effort) time.Duration { return e.child })),
		}
		line.OfLatency = line.PerSecond / tellCeiling
		for _, l := range laps {
			line.PeakMemory = max(line.PeakMemory, l.peak)
			line.Rounds = append(line.Rounds, l.rate())
		}
		if lines = append(lines, line); lines[0].PeakMemory > 0 {
			lines[i].MemoryOfLeast = float64(line.PeakMemory) / float64(lines[0].PeakMemory)
		}
	}
	return lines
}

func printReporter(t *cli.Terminal, lines []reporterLine) {
	if lines == nil {
		return
	}
	var rows []table.Row
	for _, l := range lines {
		rows = append(rows, table.Row{thousands(float64(l.Customers)), thousands(float64(l.Told)), fmt.Sprintf("%.1f", l.Seconds),
			thousands(l.PerSecond), fmt.Sprintf("%.0f %%", 100*l.OfLatency), orDash(l.PostgresMicros, "%.0f"), orDash(l.ChildMicros, "%.0f"),
			memoryText(l.PeakMemory), orDash(l.MemoryOfLeast, "%.2f")})
	}
	t.Table(table.Row{"reporter, customers", "told", "seconds", "intents/s", "of what latency allows", "Postgres CPU µs/intent", "own process", "peak memory", "ratio"},
		rows, 1, 2, 3, 4, 5, 6, 7, 8, 9)
	fmt.Fprintf(t.Out, "One pass of the reporter; each customer is over the limit of one agent. The stand-in for Stripe takes %s for an answer\n"+
		"and runs in a process of its own on this machine; with %d calls under way that alone allows %s a second. Peak memory\n"+
		"is the reporter's own process; its ratio is to the first line. Ledger and Stripe were compared after every pass. From %s customers\n"+
		"on there is one round.\n\n",
		tellLatency, tellAtOnce, thousands(tellCeiling), thousands(manyCustomers))
}
