package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jedib0t/go-pretty/v6/table"

	"odometer"
	"odometer/aggregator/deadletter"
	"odometer/cmd/internal/cli"
)

type deadlettersCmd struct {
	List    deadlettersListCmd    `cmd:"" help:"Count dead letters by reason and tenant, and list the newest. Example: odometer deadletters list --reason unknown_action"`
	Show    deadlettersShowCmd    `cmd:"" help:"Show dead letters with the field that is to blame. Example: odometer deadletters show 1-4711"`
	Retry   deadlettersRetryCmd   `cmd:"" help:"Judge dead letters anew, by today's catalogue and periods; each counts once, however often it is retried. Example: odometer deadletters retry --reason unknown_action"`
	Discard deadlettersDiscardCmd `cmd:"" help:"Decide that dead letters shall never count. Example: odometer deadletters discard 1-4711 --why \"sent by a test\""`
}

// letterFilter says which dead letters are meant.
type letterFilter struct {
	cli.DatabaseSettings
	Reason string      `help:"Only of this reason." placeholder:"REASON"`
	Tenant *cli.Tenant `help:"Only of this tenant." placeholder:"UUID"`
	IDs    []string    `arg:"" optional:"" name:"id" help:"Ids, as deadletters list prints them: <epoch>-<seq>."`
	JSON   bool        `help:"Print JSON."`
}

func (f *letterFilter) selection() (s deadletter.Selection, err error) {
	s.Reason, s.Tenant = odometer.Reason(f.Reason), (*uuid.UUID)(f.Tenant)
	if f.Reason != "" && !slices.Contains(odometer.Reasons(), s.Reason) {
		var known []string
		for _, r := range odometer.Reasons() {
			known = append(known, string(r))
		}
		return s, cli.Usagef("--reason %q: want one of %s", f.Reason, strings.Join(known, ", "))
	}
	for _, id := range f.IDs {
		at, ok := deadletter.ParseID(id)
		if !ok {
			return s, cli.Usagef("id %q: want <epoch>-<seq>, as 1-4711; see them with: odometer deadletters list", id)
		}
		s.IDs = append(s.IDs, at)
	}
	return s, nil
}

// chosen is selection for what changes letters: nobody means all of them by
// saying nothing.
func (f *letterFilter) chosen(what string) (deadletter.Selection, error) {
	if len(f.IDs) == 0 && f.Reason == "" && f.Tenant == nil {
		return deadletter.Selection{}, cli.Usagef("nothing says which dead letters to %s: give ids, --reason or --tenant", what)
	}
	return f.selection()
}

// noLetter makes an id that nobody knows the caller's to mend.
func noLetter(err error) error {
	if errors.Is(err, deadletter.ErrNotFound) {
		return cli.UsageError{Err: err}
	}
	return err
}

type deadlettersListCmd struct {
	letterFilter
	State string `help:"Only of this state: open, retried, duplicate, discarded; or all." enum:"open,retried,duplicate,discarded,all" default:"open"`
	Limit int    `help:"How many letters to list, newest first." default:"20"`
}

// Run lists; that there is something to list is no error.
func (c *deadlettersListCmd) Run(ctx context.Context, t *cli.Terminal) error {
	s, err := c.selection()
	if err != nil {
		return err
	}
	if c.Limit < 0 {
		return cli.Usagef("--limit %d: want 0 or more", c.Limit)
	}
	pool, err := c.OpenMigrated(ctx)
	if err != nil {
		return err
	}
	defer pool.Close()
	state := strings.TrimSuffix(c.State, "all")
	groups, err := deadletter.Groups(ctx, pool, s, state)
	if err != nil {
		return err
	}
	letters, err := deadletter.List(ctx, pool, s, state, c.Limit)
	switch {
	case errors.Is(err, deadletter.ErrNotFound):
		t.Log.Warn(err.Error()) // a list of nothing is still a list
	case err != nil:
		return err
	}
	if c.JSON {
		return t.JSON(letterListOf(groups, letters))
	}
	printLetters(t, groups, letters)
	return nil
}

func printLetters(t *cli.Terminal, groups []deadletter.Group, letters []deadletter.DeadLetter) {
	if len(groups) == 0 {
		fmt.Fprintln(t.Out, "no dead letters")
		return
	}
	var total int64
	var rows []table.Row
	for _, g := range groups {
		total += g.Count
		rows = append(rows, table.Row{g.Reason, tenantOrNone(g.Tenant), g.State, g.Count, ageOf(g.Oldest), ageOf(g.Newest)})
	}
	rows = append(rows, table.Row{"total", "", "", total, "", ""})
	t.Table(table.Row{"reason", "tenant", "state", "count", "oldest", "newest"}, rows, 4, 5, 6)
	rows = nil
	for _, l := range letters {
		rows = append(rows, table.Row{deadletter.ID(l.ID), l.Received.UTC().Format(time.RFC3339), l.State, l.Reason, l.Detail})
	}
	if len(rows) > 0 {
		fmt.Fprintln(t.Out)
		t.Table(table.Row{"id", "stored", "state", "reason", "detail"}, rows)
	}
	if more := total - int64(len(letters)); more > 0 {
		fmt.Fprintf(t.Out, "and %d older: see them with --limit\n", more)
	}
}

func tenantOrNone(id *uuid.UUID) string {
	if id == nil {
		return "(none)"
	}
	return id.String()
}

// ageOf is how long ago something was, in its largest unit.
func ageOf(at time.Time) string {
	age := time.Since(at)
	switch {
	case age >= 48*time.Hour:
		return fmt.Sprintf("%dd", int(age.Hours()/24))
	case age >= 2*time.Hour:
		return fmt.Sprintf("%dh", int(age.Hours()))
	case age >= 2*time.Minute:
		return fmt.Sprintf("%dm", int(age.Minutes()))
	}
	return fmt.Sprintf("%ds", max(0, int(age.Seconds())))
}

type deadlettersRetryCmd struct{ letterFilter }

// Run retries and tells what became of each letter.
func (c *deadlettersRetryCmd) Run(ctx context.Context, t *cli.Terminal) error {
	s, err := c.chosen("retry")
	if err != nil {
		return err
	}
	return c.change(ctx, t, func(pool *pgxpool.Pool, each func(deadletter.Outcome)) error {
		return deadletter.Retry(ctx, pool, s, cli.Operator(), each)
	})
}

type deadlettersDiscardCmd struct {
	letterFilter
	Why string `help:"Why, for whoever asks later." placeholder:"TEXT"`
}

// Run discards and tells which letters.
func (c *deadlettersDiscardCmd) Run(ctx context.Context, t *cli.Terminal) error {
	if strings.TrimSpace(c.Why) == "" {
		return cli.Usagef("--why is not set: say why these dead letters shall never count")
	}
	s, err := c.chosen("discard")
	if err != nil {
		return err
	}
	return c.change(ctx, t, func(pool *pgxpool.Pool, each func(deadletter.Outcome)) error {
		return deadletter.Discard(ctx, pool, s, cli.Operator(), strings.TrimSpace(c.Why), each)
	})
}

// change changes letters and prints what became of them; what is still open is
// something left.
func (f *letterFilter) change(ctx context.Context, t *cli.Terminal, does func(*pgxpool.Pool, func(deadletter.Outcome)) error) error {
	pool, err := f.OpenMigrated(ctx)
	if err != nil {
		return err
	}
	defer pool.Close()
	r := letterReport{Counts: map[string]int{}, Letters: []letterLine{}}
	failed := does(pool, r.add)
	if failed != nil && r.Total == 0 {
		return noLetter(failed)
	}
	if f.JSON {
		if err := t.JSON(r); err != nil {
			return err
		}
	} else {
		r.print(t)
	}
	switch {
	case failed != nil:
		return fmt.Errorf("%w: run it again, which is safe", failed)
	case r.Counts["open"] > 0:
		return cli.ErrFindings
	}
	return nil
}
