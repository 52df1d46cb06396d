package main

import (
	"fmt"
	"time"

	"odometer/cmd/internal/cli"

	"github.com/jedib0t/go-pretty/v6/table"
)

// latencyLine is a pacing's line in the table of the latency race, in
// milliseconds from the call that published an event.
type latencyLine struct {
	Published     string  `json:"published"`
	PerSecond     float64 `json:"events_per_second"`
	StoredP50     float64 `json:"acknowledged_p50_ms"`
	StoredP99     float64 `json:"acknowledged_p99_ms"`
	VisibleP50    float64 `json:"visible_p50_ms"`
	VisibleP99    float64 `json:"visible_p99_ms"`
	WorstRoundP99 float64 `json:"visible_p99_ms_worst_round"`
}

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

func latencyLineOf(p pacing, all []delays) latencyLine {
	of := func(get func(delays) time.Duration) float64 {
		return median(all, func(d delays) float64 { return milliseconds(get(d)) })
	}
	line := latencyLine{
		Published:  p.name,
		PerSecond:  median(all, func(d delays) float64 { return d.rate }),
		StoredP50:  of(func(d delays) time.Duration { return d.acked[0] }),
		StoredP99:  of(func(d delays) time.Duration { return d.acked[1] }),
		VisibleP50: of(func(d delays) time.Duration { return d.visible[0] }),
		VisibleP99: of(func(d delays) time.Duration { return d.visible[1] }),
	}
	for _, d := range all {
		line.WorstRoundP99 = max(line.WorstRoundP99, milliseconds(d.visible[1]))
	}
	return line
}

func printLatency(t *cli.Terminal, lines []latencyLine) {
	if lines == nil {
		return
	}
	var rows []table.Row
	for _, l := range lines {
		rows = append(rows, table.Row{l.Published, thousands(l.PerSecond), millis(l.StoredP50), millis(l.StoredP99),
			millis(l.VisibleP50), millis(l.VisibleP99), millis(l.WorstRoundP99)})
	}
	t.Table(table.Row{"latency, ms", "events/s", "acknowledged p50", "p99", "visible p50", "p99", "p99, worst round"}, rows, 2, 3, 4, 5, 6, 7)
	fmt.Fprintf(t.Out, "From the call that publishes: acknowledged when it returns, which is after the stream's sync; visible when another\n"+
		"connection sees the transaction that counted the event, found by asking every %s. Publisher, NATS, aggregator and\n"+
		"Postgres share this machine.\n\n", watchEvery)
}

func millis(ms float64) string { return fmt.Sprintf("%.1f", ms) }

// queryLine is a contestant's line in the table of the query race.
type queryLine struct {
	Contestant string  `json:"contestant"`
	PerSecond  float64 `json:"requests_per_second"`
	P50        float64 `json:"p50_ms"`
	P95        float64 `json:"p95_ms"`
	P99        float64 `json:"p99_ms"`
	OfSelect   float64 `json:"of_select_1"`
	Counted    float64 `json:"events_counted_per_second"`
}

func queryTable(all map[string][]answers) []queryLine {
	var lines []queryLine
	for _, name := range []string{selectOne, usageAnswer, usageUnderWay} {
		of := func(get func(answers) time.Duration) float64 {
			return median(all[name], func(a answers) float64 { return milliseconds(get(a)) })
		}
		perSecond := func(a answers) float64 { return a.perSecond }
		lines = append(lines, queryLine{
			Contestant: name, PerSecond: median(all[name], perSecond),
			P50:      of(func(a answers) time.Duration { return a.p50 }),
			P95:      of(func(a answers) time.Duration { return a.p95 }),
			P99:      of(func(a answers) time.Duration { return a.p99 }),
			OfSelect: medianRatio(all[name], all[selectOne], perSecond),
			Counted:  median(all[name], func(a answers) float64 { return a.counted }),
		})
	}
	return lines
}

func printQuery(t *cli.Terminal, lines []queryLine) {
	if lines == nil {
		return
	}
	var rows []table.Row
	for _, l := range lines {
		counted := "-"
		if l.Counted > 0 {
			counted = thousands(l.Counted)
		}
		rows = append(rows, table.Row{l.Contestant, thousands(l.PerSecond), ratioText(l.OfSelect),
			fmt.Sprintf("%.2f", l.P50), fmt.Sprintf("%.2f", l.P95), fmt.Sprintf("%.2f", l.P99), counted})
	}
	t.Table(table.Row{"query", "requests/s", "of select 1", "p50 ms", "p95 ms", "p99 ms", "events/s counted"}, rows, 2, 3, 4, 5, 6, 7)
	fmt.Fprintf(t.Out, "%d clients on connections that they keep, %s tenants; token, statement and JSON included. Clients, API, NATS,\n"+
		"aggregator and Postgres share this machine.\n\n", queryClients, thousands(queryTenants))
}

// growthResult is the line of a table's size in the growth race.
type growthResult struct {
	Stored        int         `json:"stored"`
	First         float64     `json:"events_per_second_after_checkpoint"`
	Steady        float64     `json:"events_per_second_steady"`
	FirstOfLeast  float64     `json:"after_checkpoint_of_first_size"`
	SteadyOfLeast float64     `json:"steady_of_first_size"`
	Windows       [][]float64 `json:"windows"` // by round: events per second, window by window
}

func growthTable(stored []int, all [][]climb) []growthResult {
	var lines []growthResult
	steady := func(c climb) float64 { return c.steady }
	for i, n := range stored {
		line := growthResult{
			Stored: n, First: median(all[i], climb.first), Steady: median(all[i], steady),
			FirstOfLeast: medianRatio(all[i], all[0], climb.first), SteadyOfLeast: medianRatio(all[i], all[0], steady),
		}
		for _, c := range all[i] {
			line.Windows = append(line.Windows, c.windows)
		}
		lines = append(lines, line)
	}
	return lines
}

func printGrowth(t *cli.Terminal, lines []growthResult) {
	if lines == nil {
		return
	}
	var rows []table.Row
	for _, l := range lines {
		rows = append(rows, table.Row{thousands(float64(l.Stored)), thousands(l.First), ratioText(l.FirstOfLeast), thousands(l.Steady), ratioText(l.SteadyOfLeast)})
	}
	t.Table(table.Row{"growth, events stored", "after a checkpoint, events/s", "ratio", "steady, events/s", "ratio"}, rows, 1, 2, 3, 4, 5)
	fmt.Fprintln(t.Out, "After a checkpoint Postgres logs each page as a whole when it is first touched: the first seconds are slower.\n"+
		"Steady is the second half of the events. Ratios are to the first line.")
	fmt.Fprintln(t.Out)
}
