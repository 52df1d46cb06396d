package main

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
	"odometer/query"
)

// standing is where the books stand.
type standing struct {
	Messages   int64 // of the stream, read and accounted for
	Events     int64
	Duplicates int64
	Dead       int64
	AsOf       *time.Time // the oldest of the partitions'
}

const standingSQL = `
select
    coalesce(sum(messages), 0)::bigint as messages,
    coalesce(sum(events), 0)::bigint as events,
    coalesce(sum(duplicates), 0)::bigint as duplicates,
    coalesce(sum(dead), 0)::bigint as dead,
    (select min(complete_until) from stream_positions) as as_of
from batches`

func loadStanding(ctx context.Context, pool *pgxpool.Pool) (standing, error) {
	rows, _ := pool.Query(ctx, standingSQL)
	p, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[standing])
	if err != nil {
		return standing{}, fmt.Errorf("read where the books stand: %w", err)
	}
	return p, nil
}

// show tells every second how far the books are: as a table that is drawn over
// itself on a terminal, else as a line.
func (d *demo) show(ctx context.Context, agents *demoAgents) error {
	began, live := time.Now(), interactive(d.t.out)
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	drawn := 0
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		p, err := loadStanding(ctx, d.pool)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%4.0fs  published %d  events %d  duplicates %d  dead letters %d  as of %s",
			time.Since(began).Seconds(), agents.published.Load(), p.Events, p.Duplicates, p.Dead, ago(p.AsOf))
		said := line + "\n"
		if live {
			said += "\n" + d.picture(ctx) + "\n"
			if drawn > 0 {
				fmt.Fprintf(d.t.out, "\x1b[%dA\x1b[J", drawn)
			}
			drawn = strings.Count(said, "\n")
		}
		if _, err := fmt.Fprint(d.t.out, said); err != nil {
			return fmt.Errorf("the demo ended before its books were checked, as nobody reads what it says: %w: read it to its end, or write it to a file", err)
		}
	}
}

func ago(t *time.Time) string {
	if t == nil {
		return "not yet known"
	}
	return fmt.Sprintf("%.1fs ago", time.Since(*t).Seconds())
}

// picture is every tenant's usage, as the API answers it.
func (d *demo) picture(ctx context.Context) string {
	var rows []table.Row
	for _, tenant := range demoTenants {
		answer, err := query.Usage(ctx, d.pool, tenant.id)
		var refusal *query.Refusal
		if errors.As(err, &refusal) {
			rows = append(rows, table.Row{tenant.name, string(tenant.status), "counted, not shown", "", "", "", d.told(&tenant)})
			continue
		}
		if err != nil {
			rows = append(rows, table.Row{tenant.name, "not known now"})
			continue
		}
		row := table.Row{tenant.name, demoPlan(answer)}
		for _, u := range answer.Usage {
			row = append(row, used(u.Value))
		}
		rows = append(rows, append(row, odometer.Money(answer.TotalOverageCostCents, answer.Currency), d.told(&tenant)))
	}
	return renderTable(table.Row{"tenant", "plan", "inbox", "invoice", "meeting", "overage", "units told"}, rows, 3, 4, 5, 6, 7)
}

func demoPlan(a *query.Answer) string {
	if a.Plan == nil {
		return "trial"
	}
	return a.Plan.Name
}

func used(u query.AgentUsage) string {
	if u.Limit == nil {
		return fmt.Sprintf("%d", u.Count)
	}
	return fmt.Sprintf("%d / %d", u.Count, *u.Limit)
}
