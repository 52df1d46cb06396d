package main

import (
	"fmt"
	"time"

	"odometer/cmd/internal/cli"

	"github.com/jedib0t/go-pretty/v6/table"
)

// ingestLine is a contestant's line in the table of the ingest race.
type ingestLine struct {
	Contestant     string    `json:"contestant"`
	Acked          float64   `json:"acknowledged_per_second"`
	Counted        float64   `json:"counted_per_second"` // acknowledged and counted; 0: nobody counts
	OfPeer         float64   `json:"of_peer"`            // counted, or acknowledged where nobody counts, to the peer's 12000
	P50            float64   `json:"request_p50_ms"`
	P99            float64   `json:"request_p99_ms"`
	CPUMicros      float64   `json:"cpu_us_per_event"` // of all; 0: not known
	SendMicros     float64   `json:"clients_cpu_us_per_event"`
	TakeMicros     float64   `json:"handler_cpu_us_per_event"`
	NATSMicros     float64   `json:"nats_cpu_us_per_event"`
	CountMicros    float64   `json:"aggregator_cpu_us_per_event"`
	PostgresMicros float64   `json:"postgres_cpu_us_per_event"`
	PeakMemory     int64     `json:"handler_peak_memory_bytes"` // over all rounds
	Rounds         []float64 `json:"rounds"`                    // counted, or acknowledged, per second
}

func ingestTable(laps map[string][]mailLap) []ingestLine {
	var lines []ingestLine
	for i := range mails {
		all := laps[mails[i].name]
		cpu := func(of func(mailLap) time.Duration) float64 {
			return median(all, func(l mailLap) float64 { return float64(of(l).Nanoseconds()) / 1e3 / float64(l.events) })
		}
		ms := func(of func(mailLap) time.Duration) float64 {
			return median(all, func(l mailLap) float64 { return milliseconds(of(l)) })
		}
		figure := mailLap.countedRate
		if !mails[i].counted {
			figure = mailLap.ackedRate
		}
		line := ingestLine{
			Contestant: mails[i].name, Acked: median(all, mailLap.ackedRate), Counted: median(all, mailLap.countedRate),
			OfPeer: median(all, figure) / peerRate,
			P50:    ms(func(l mailLap) time.Duration { return l.p50 }), P99: ms(func(l mailLap) time.Duration { return l.p99 }),
			CPUMicros:  cpu(func(l mailLap) time.Duration { return l.send + l.take + l.nats + l.count + l.postgres }),
			SendMicros: cpu(func(l mailLap) time.Duration { return l.send }), TakeMicros: cpu(func(l mailLap) time.Duration { return l.take }),
			NATSMicros: cpu(func(l mailLap) time.Duration { return l.nats }), CountMicros: cpu(func(l mailLap) time.Duration { return l.count }),
			PostgresMicros: cpu(func(l mailLap) time.Duration { return l.postgres }),
		}
		for _, l := range all {
			line.PeakMemory = max(line.PeakMemory, l.peak)
			line.Rounds = append(line.Rounds, figure(l))
		}
		lines = append(lines, line)
	}
	return lines
}

func printIngest(t *cli.Terminal, lines []ingestLine) {
	if lines == nil {
		return
	}
	var rows []table.Row
	for _, l := range lines {
		counted := "-"
		if l.Counted > 0 {
			counted = thousands(l.Counted)
		}
		rows = append(rows, table.Row{l.Contestant, counted, thousands(l.Acked), fmt.Sprintf("%.1f", l.OfPeer), millis(l.P50), millis(l.P99),
			orDash(l.CPUMicros, "%.1f"), orDash(l.SendMicros, "%.1f"), orDash(l.TakeMicros, "%.1f"), orDash(l.NATSMicros, "%.1f"),
			orDash(l.CountMicros, "%.1f"), orDash(l.PostgresMicros, "%.1f"), memoryText(l.PeakMemory)})
	}
	t.Table(table.Row{"ingest by HTTP", "counted/s", "acknowledged/s", "x 12 000", "request p50 ms", "p99", "CPU µs/event", "clients", "handler", "NATS", "aggregator", "Postgres", "peak memory"},
		rows, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13)
	fmt.Fprintf(t.Out, "POST /api/v1/events with events of about 350 bytes, from %d clients on connections that they keep, %s tenants; the token\n"+
		"is checked with each request. Counted per second: from the first request until the last event is in its counter. Clients,\n"+
		"handler, NATS and aggregator are a process each and share this machine with Postgres; requests were made up before. %s\n"+
		"events a second, inserted and not counted, is what the nearest peer reached on two cores. Peak memory is the handler's.\n"+
		"Books were verified after every lap.\n\n",
		sendClients, thousands(writeTenants), thousands(peerRate))
}
