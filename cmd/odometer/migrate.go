package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"odometer/cmd/internal/cli"
	"odometer/migrations"
)

type migrateCmd struct {
	Up     migrateUpCmd     `cmd:"" help:"Bring the schema up to date. Example: odometer migrate up"`
	Down   migrateDownCmd   `cmd:"" help:"Take the newest migration back. Example: odometer migrate down"`
	Status migrateStatusCmd `cmd:"" help:"Show what is applied. Example: odometer migrate status"`
}

type migrateUpCmd struct {
	cli.DatabaseSettings
	JSON bool `help:"Print JSON."`
}

// Run applies what is missing.
func (c *migrateUpCmd) Run(ctx context.Context, t *cli.Terminal) error {
	pool, err := c.Open(ctx, cli.FewConnections)
	if err != nil {
		return err
	}
	defer pool.Close()
	applied, err := migrations.Up(ctx, pool)
	if err != nil {
		return err
	}
	if c.JSON {
		return t.JSON(append([]migrations.Migration{}, applied...))
	}
	for _, m := range applied {
		fmt.Fprintf(t.Out, "applied %05d %s\n", m.Version, m.Name)
	}
	if len(applied) == 0 {
		fmt.Fprintln(t.Out, "the schema is up to date")
	}
	return nil
}

type migrateDownCmd struct {
	cli.DatabaseSettings
	Force bool `help:"Also when that destroys events or the ledger."`
}

// Run takes one migration back.
func (c *migrateDownCmd) Run(ctx context.Context, t *cli.Terminal) error {
	pool, err := c.Open(ctx, cli.FewConnections)
	if err != nil {
		return err
	}
	defer pool.Close()
	m, err := migrations.Down(ctx, pool, c.Force)
	if err != nil {
		return err
	}
	fmt.Fprintf(t.Out, "took back %05d %s\n", m.Version, m.Name)
	return nil
}

type migrateStatusCmd struct {
	cli.DatabaseSettings
	JSON bool `help:"Print JSON."`
}

// Run lists the migrations; it is an error to be behind.
func (c *migrateStatusCmd) Run(ctx context.Context, t *cli.Terminal) error {
	pool, err := c.Open(ctx, cli.FewConnections)
	if err != nil {
		return err
	}
	defer pool.Close()
	all, err := migrations.Status(ctx, pool)
	if err != nil {
		return err
	}
	if c.JSON {
		return t.JSON(all)
	}
	var rows []table.Row
	for _, m := range all {
		at := "not applied"
		if m.Applied {
			at = m.AppliedAt.Format(time.RFC3339)
		}
		rows = append(rows, table.Row{fmt.Sprintf("%05d", m.Version), m.Name, at})
	}
	t.Table(table.Row{"version", "name", "applied at"}, rows)
	return nil
}
