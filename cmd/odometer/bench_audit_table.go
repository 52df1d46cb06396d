package main

import (
	"fmt"

	"odometer/cmd/internal/cli"

	"github.com/jedib0t/go-pretty/v6/table"
)

// auditLine is the line of a number of events in the audit race.
type auditLine struct {
	Events            int       `json:"events"`
	ReadPerSecond     float64   `json:"read_messages_per_second"`
	StreamPerSecond   float64   `json:"stream_side_messages_per_second"`
	StreamOfRead      float64   `json:"stream_side_of_read"`
	SumPerSecond      float64   `json:"sum_rows_per_second"`
	CountersPerSecond float64   `json:"counters_side_rows_per_second"`
	CountersOfSum     float64   `json:"counters_side_of_sum"`
	PeakMemory        int64     `json:"peak_memory_bytes"` // of the auditing process, over all rounds
	MemoryOfLeast     float64   `json:"peak_memory_of_first_size"`
	StreamRounds      []float64 `json:"stream_side_of_read_rounds"`
	CountersRounds    []float64 `json:"counters_side_of_sum_rounds"`
}

func auditTable(all [][]auditLap) []auditLine {
	var lines []auditLine
	for i, laps := range all {
		line := auditLine{
			Events:        laps[0].events,
			ReadPerSecond: median(laps, auditLap.readRate), StreamPerSecond: median(laps, auditLap.streamRate),
			SumPerSecond: median(laps, auditLap.sumRate), CountersPerSecond: median(laps, auditLap.sumsRate),
			StreamOfRead:  median(laps, auditLap.streamOfRead),
			CountersOfSum: median(laps, auditLap.sumsOfSum),
		}
		for _, l := range laps {
			line.PeakMemory = max(line.PeakMemory, l.peak)
			line.StreamRounds = append(line.StreamRounds, l.streamOfRead())
			line.CountersRounds = append(line.CountersRounds, l.sumsOfSum())
		}
		if lines = append(lines, line); lines[0].PeakMemory > 0 {
			lines[i].MemoryOfLeast = float64(line.PeakMemory) / float64(lines[0].PeakMemory)
		}
	}
	return lines
}

func printAuditRace(t *cli.Terminal, lines []auditLine) {
	if lines == nil {
		return
	}
	var rows []table.Row
	for _, l := range lines {
		rows = append(rows, table.Row{thousands(float64(l.Events)), thousands(l.ReadPerSecond), thousands(l.StreamPerSecond), ratioText(l.StreamOfRead),
			thousands(l.SumPerSecond), thousands(l.CountersPerSecond), ratioText(l.CountersOfSum), memoryText(l.PeakMemory), orDash(l.MemoryOfLeast, "%.2f")})
	}
	t.Table(table.Row{"audit, events", "ordered read, messages/s", "stream side, messages/s", "of the read", "bare sum, rows/s", "counters side, rows/s", "of the sum", "peak memory", "ratio"},
		rows, 1, 2, 3, 4, 5, 6, 7, 8, 9)
	fmt.Fprint(t.Out, "The read takes every message in order and looks into none. The stream side of the audit reads the same messages and\n"+
		"compares each with its event in Postgres, metadata included. The sum is a bare select of the quantities by tenant,\n"+
		"agent and period; the counters side sums the same rows, looks at their times and places, and compares each sum with\n"+
		"its counter. Peak memory is the auditing process, with NATS and Postgres outside of it; its ratio is to the first\n"+
		"line. Every event was published and counted by the aggregator, and an audit that finds a difference has no time.\n\n")
}
