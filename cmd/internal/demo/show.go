package demo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jedib0t/go-pretty/v6/table"

	"odometer"
	"odometer/cmd/internal/cli"
	"odometer/query"
)

// counted is what the aggregator has counted so far.
type counted struct {
	Messages   int64 // of the stream, read and accounted for
	Events     int64
	Duplicates int64
	Dead       int64
	AsOf       *time.Time // the oldest of the partitions'
}

const countedSQL = `
select
    coalesce(sum(messages), 0)::bigint as messages,
    coalesce(sum(events), 0)::bigint as events,
    coalesce(sum(duplicates), 0)::bigint as duplicates,
    coalesce(sum(dead), 0)::bigint as dead,
    (select min(complete_until) from stream_positions) as as_of
from batches`

func loadCounted(ctx context.Context, pool *pgxpool.Pool) (counted, error) {
	rows, _ := pool.Query(ctx, countedSQL)
	p, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[counted])
	if err != nil {
		return counted{}, fmt.Errorf("read what is counted: %w", err)
	}
	return p, nil
}

// printProgress prints every second what is counted: as a table that is drawn over
// itself on a terminal, else as a line.
func (d *demo) printProgress(ctx context.Context, agents *agents) error {
	began, live := time.Now(), cli.IsTerminal(d.terminal.Out)
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	drawn := 0
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		p, err := loadCounted(ctx, d.pool)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%4.0fs  published %d  events %d  duplicates %d  dead letters %d  as of %s",
			time.Since(began).Seconds(), agents.published.Load(), p.Events, p.Duplicates, p.Dead, agoText(p.AsOf))
		text := line + "\n"
		if live {
			text += "\n" + d.usageTable(ctx) + "\n"
			if drawn > 0 {
				fmt.Fprintf(d.terminal.Out, "\x1b[%dA\x1b[J", drawn)
			}
			drawn = strings.Count(text, "\n")
		}
		if _, err := fmt.Fprint(d.terminal.Out, text); err != nil {
			return fmt.Errorf("the demo ended before its counts were checked, because its output is closed: %w: read the output to its end, or write it to a file", err)
		}
	}
}

func agoText(t *time.Time) string {
	if t == nil {
		return "not yet known"
	}
	return fmt.Sprintf("%.1fs ago", time.Since(*t).Seconds())
}

// usageTable is every tenant's usage, as the API answers it.
func (d *demo) usageTable(ctx context.Context) string {
	var rows []table.Row
	for _, tenant := range Tenants {
		answer, err := query.Usage(ctx, d.pool, tenant.ID)
		var refusal *query.Refusal
		if errors.As(err, &refusal) {
			rows = append(rows, table.Row{tenant.name, string(tenant.status), "counted, not shown", "", "", "", d.meteredOf(&tenant)})
			continue
		}
		if err != nil {
			rows = append(rows, table.Row{tenant.name, "not known now"})
			continue
		}
		row := table.Row{tenant.name, planName(answer)}
		for _, u := range answer.Usage {
			row = append(row, usedText(u.Value))
		}
		rows = append(rows, append(row, odometer.Money(answer.TotalOverageCostCents, answer.Currency), d.meteredOf(&tenant)))
	}
	return cli.FormatTable(table.Row{"tenant", "plan", "inbox", "invoice", "meeting", "overage", "units reported"}, rows, 3, 4, 5, 6, 7)
}

func planName(a *query.Answer) string {
	if a.Plan == nil {
		return "trial"
	}
	return a.Plan.Name
}

func usedText(u query.AgentUsage) string {
	if u.Limit == nil {
		return fmt.Sprintf("%d", u.Count)
	}
	return fmt.Sprintf("%d / %d", u.Count, *u.Limit)
}
