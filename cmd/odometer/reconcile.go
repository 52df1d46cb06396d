package main

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jedib0t/go-pretty/v6/table"

	"odometer/audit"
)

type reconcileCmd struct {
	auditSettings
	Force bool `help:"Also repair a drift of 5 % and more, and what the stream is too short to prove."`
}

// Run compares the five books and sets the counters that differ to the sum of
// their events, where the stream bears those out.
func (c *reconcileCmd) Run(ctx context.Context, t *terminal) error {
	options, done, err := c.open(ctx, t)
	if err != nil {
		return err
	}
	defer done()
	steps := newSteps(t)
	how := audit.ReconcileOptions{Force: c.Force, By: operator()}
	result, failed := audit.Reconcile(ctx, options, audit.Scope{Tenant: (*uuid.UUID)(c.Tenant)}, how, steps.at)
	steps.done()
	if failed != nil && result.Report.Different == 0 {
		return failed
	}
	if failed == nil && c.Tenant == nil {
		if err := audit.RecordFindings(ctx, options.Pool, result.Report); err != nil {
			return err
		}
	}
	if err := c.say(t, result.Report, result); err != nil {
		return err
	}
	if !c.JSON {
		printRepairs(t, result)
	}
	switch {
	case failed != nil:
		return failed
	case !result.Done():
		return errSaid
	}
	return nil
}

func printRepairs(t *terminal, result *audit.Reconciliation) {
	print := func(what string, repairs []audit.CounterRepair) {
		if len(repairs) == 0 {
			return
		}
		var rows []table.Row
		for _, r := range repairs {
			rows = append(rows, table.Row{r.Tenant, r.Agent, r.Period.UTC().Format(time.RFC3339Nano), r.Before, r.After, r.Why})
		}
		t.table(table.Row{what + ": tenant", "agent", "period from", "before", "after", "why"}, rows, 4, 5)
	}
	print("repaired", result.Repaired)
	print("left", result.Left)
	fmt.Fprintf(t.out, "repaired %d counters, left %d", len(result.Repaired), len(result.Left))
	if result.Others > 0 {
		fmt.Fprintf(t.out, "; %d other differences stand, with their remedies above", result.Others)
	}
	fmt.Fprintln(t.out)
}
