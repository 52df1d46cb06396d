package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"odometer"
	"odometer/billing"
	"odometer/cmd/internal/cli"
)

type catalogueCmd struct {
	Apply catalogueApplyCmd `cmd:"" help:"Put a catalogue in force, in place of the present one. Example: odometer catalogue apply -f catalogue.yaml"`
	Show  catalogueShowCmd  `cmd:"" help:"Print the catalogue in force as YAML. Example: odometer catalogue show > catalogue.yaml"`
}

type catalogueApplyCmd struct {
	cli.DatabaseSettings
	File string `short:"f" help:"The catalogue, - for standard input; without it the built-in sample." placeholder:"FILE"`
}

// Run checks the whole file before anything is changed.
func (c *catalogueApplyCmd) Run(ctx context.Context, t *cli.Terminal) error {
	catalogue, err := c.read()
	if err != nil {
		return err
	}
	pool, err := c.OpenMigrated(ctx, cli.FewConnections)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := billing.ApplyCatalogue(ctx, pool, catalogue); err != nil {
		return err
	}
	fmt.Fprintf(t.Out, "in force: %d agents, %d plans, prices in %s\n",
		len(catalogue.Agents), len(catalogue.Plans), catalogue.Currency)
	return nil
}

func (c *catalogueApplyCmd) read() (odometer.Catalogue, error) {
	if c.File == "" {
		return billing.SampleCatalogue(), nil
	}
	name, file := c.File, os.Stdin
	if name == "-" {
		name = "standard input"
	} else {
		var err error
		if file, err = os.Open(name); err != nil {
			return odometer.Catalogue{}, cli.Usagef("--file: %w", err)
		}
		defer file.Close()
	}
	text, err := io.ReadAll(io.LimitReader(file, billing.MaxCatalogueBytes+1))
	if err != nil {
		return odometer.Catalogue{}, cli.Usagef("read %s: %w", name, err)
	}
	catalogue, err := billing.ParseCatalogue(text)
	if err != nil {
		return odometer.Catalogue{}, cli.Usagef("%s:%w", name, err)
	}
	return catalogue, nil
}

type catalogueShowCmd struct {
	cli.DatabaseSettings
}

// Run prints what apply accepts.
func (c *catalogueShowCmd) Run(ctx context.Context, t *cli.Terminal) error {
	pool, err := c.OpenMigrated(ctx, cli.FewConnections)
	if err != nil {
		return err
	}
	defer pool.Close()
	catalogue, err := billing.LoadCatalogue(ctx, pool)
	if err != nil {
		return err
	}
	text, err := billing.FormatCatalogue(catalogue)
	if err != nil {
		return err
	}
	_, err = t.Out.Write(text)
	return err
}
