package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jedib0t/go-pretty/v6/table"

	"odometer"
	"odometer/aggregator/deadletter"
	"odometer/cmd/internal/app"
	"odometer/cmd/internal/cli"
)

type deadlettersCmd struct {
	List    deadlettersListCmd    `cmd:"" help:"Count dead letters by reason and tenant, and list the newest. Example: odometer deadletters list --reason unknown_action"`
	Show    deadlettersShowCmd    `cmd:"" help:"Show dead letters with the field that is wrong. Example: odometer deadletters show 1-4711"`
	Retry   deadlettersRetryCmd   `cmd:"" help:"Classify dead letters again, by today's catalogue and periods; each counts once, however often it is retried. Example: odometer deadletters retry --reason unknown_action"`
	Discard deadlettersDiscardCmd `cmd:"" help:"Discard dead letters: they will never count. Example: odometer deadletters discard 1-4711 --why \"sent by a test\""`
}

// deadLetterFilter selects dead letters.
type deadLetterFilter struct {
	cli.DatabaseSettings
	Reason string      `help:"Only of this reason." placeholder:"REASON"`
	Tenant *cli.Tenant `help:"Only of this tenant." placeholder:"UUID"`
	IDs    []string    `arg:"" optional:"" name:"id" help:"Ids, as deadletters list prints them: <epoch>-<seq>."`
	JSON   bool        `help:"Print JSON."`
}

func (f *deadLetterFilter) selection() (s deadletter.Selection, err error) {
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

// chosen is selection for commands that change dead letters: without a filter
// they must not change all of them.
func (f *deadLetterFilter) chosen(what string) (deadletter.Selection, error) {
	if len(f.IDs) == 0 && f.Reason == "" && f.Tenant == nil {
		return deadletter.Selection{}, cli.Usagef("nothing says which dead letters to %s: give ids, --reason or --tenant", what)
	}
	return f.selection()
}

// unknownIsUsage makes an unknown id a usage error.
func unknownIsUsage(err error) error {
	if errors.Is(err, deadletter.ErrNotFound) {
		return cli.UsageError{Err: err}
	}
	return err
}

type deadlettersListCmd struct {
	deadLetterFilter
	State string `help:"Only of this state: open, retried, duplicate, discarded; or all." enum:"open,retried,duplicate,discarded,all" default:"open"`
	Limit int    `help:"How many dead letters to list, newest first." default:"20"`
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
	pool, err := c.OpenMigrated(ctx, cli.FewConnections)
	if err != nil {
		return err
	}
	defer pool.Close()
	state := strings.TrimSuffix(c.State, "all")
	groups, err := deadletter.Groups(ctx, pool, s, state)
	if err != nil {
		return err
	}
	found, err := deadletter.List(ctx, pool, s, state, c.Limit)
	switch {
	case errors.Is(err, deadletter.ErrNotFound):
		t.Log.Warn(err.Error()) // a list of nothing is still a list
	case err != nil:
		return err
	}
	if c.JSON {
		return t.JSON(deadLetterList(groups, found))
	}
	printDeadLetters(t, groups, found)
	return nil
}

func printDeadLetters(t *cli.Terminal, groups []deadletter.Group, found []deadletter.DeadLetter) {
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
	for _, l := range found {
		rows = append(rows, table.Row{deadletter.ID(l.ID), l.Received.UTC().Format(time.RFC3339), l.State, l.Reason, l.Detail})
	}
	if len(rows) > 0 {
		fmt.Fprintln(t.Out)
		t.Table(table.Row{"id", "stored", "state", "reason", "detail"}, rows)
	}
	if more := total - int64(len(found)); more > 0 {
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

type deadlettersRetryCmd struct{ deadLetterFilter }

// Run retries and prints the outcome of each.
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
	deadLetterFilter
	Why string `help:"Why, for whoever asks later." placeholder:"TEXT"`
}

// Run discards and prints which.
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

// change changes dead letters and prints the outcome of each; one that is still
// open is a finding.
func (f *deadLetterFilter) change(ctx context.Context, t *cli.Terminal, does func(*pgxpool.Pool, func(deadletter.Outcome)) error) error {
	pool, err := f.OpenMigrated(ctx, cli.FewConnections)
	if err != nil {
		return err
	}
	defer pool.Close()
	r := changeReport{Counts: map[string]int{}, Letters: []app.DeadLetterRow{}}
	failed := does(pool, r.add)
	if failed != nil && r.Total == 0 {
		return unknownIsUsage(failed)
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

type deadlettersShowCmd struct {
	deadLetterFilter
	Limit int `help:"How many dead letters to show at most, newest first." default:"20"`
}

// Run prints dead letters so that a person can correct their sender.
func (c *deadlettersShowCmd) Run(ctx context.Context, t *cli.Terminal) error {
	s, err := c.chosen("show")
	if err != nil {
		return err
	}
	pool, err := c.OpenMigrated(ctx, cli.FewConnections)
	if err != nil {
		return err
	}
	defer pool.Close()
	found, err := deadletter.List(ctx, pool, s, "", max(c.Limit, len(c.IDs)))
	if err != nil {
		return unknownIsUsage(err)
	}
	lines := app.DeadLetterRows(found)
	if c.JSON {
		return t.JSON(map[string]any{"letters": lines})
	}
	if len(lines) == 0 {
		fmt.Fprintln(t.Out, "no dead letters")
	}
	for i := range lines {
		printDeadLetter(t, &lines[i], &found[i])
	}
	return nil
}

func printDeadLetter(t *cli.Terminal, l *app.DeadLetterRow, full *deadletter.DeadLetter) {
	field := func(name, value string) {
		if value != "" {
			fmt.Fprintf(t.Out, "  %-9s%s\n", name, value)
		}
	}
	fmt.Fprintf(t.Out, "dead letter %s, %s\n", l.ID, l.State)
	field("reason", string(l.Reason))
	field("detail", l.Detail)
	field("field", strings.TrimSuffix(l.Field+": "+l.Value, ": "))
	field("subject", full.Subject)
	field("stored", full.Received.UTC().Format(time.RFC3339Nano))
	if full.DecidedAt != nil {
		field("decided", full.DecidedAt.UTC().Format(time.RFC3339)+" by "+cli.ValueOr(full.DecidedBy, "none"))
	}
	field("why", l.Why)
	for _, name := range slices.Sorted(maps.Keys(full.Headers)) {
		field("header", name+": "+strings.Join(full.Headers[name], ", "))
	}
	field("payload", strings.ReplaceAll(app.Printable(full.Payload), "\n", "\n           "))
}

// deadLetterList is what list --json prints.
func deadLetterList(groups []deadletter.Group, found []deadletter.DeadLetter) any {
	var total int64
	for _, g := range groups {
		total += g.Count
	}
	return map[string]any{"total": total, "groups": append([]deadletter.Group{}, groups...), "letters": app.DeadLetterRows(found)}
}

// changeReport is the outcome of a retry or a discard.
type changeReport struct {
	Total   int                 `json:"total"`
	Counts  map[string]int      `json:"counts"`  // by state
	Letters []app.DeadLetterRow `json:"letters"` // the first of them
}

// maxPrinted bounds how many dead letters a change prints.
const maxPrinted = 1000

func (r *changeReport) add(o deadletter.Outcome) {
	r.Total++
	r.Counts[o.State]++
	if len(r.Letters) < maxPrinted {
		r.Letters = append(r.Letters, app.DeadLetterRow{ID: deadletter.ID(o.ID), State: o.State, Reason: o.Reason, Detail: o.Detail, Already: o.Before})
	}
}

func (r *changeReport) print(t *cli.Terminal) {
	if r.Total == 0 {
		fmt.Fprintln(t.Out, "no open dead letters: nothing to do")
		return
	}
	for _, l := range r.Letters {
		switch {
		case l.Already:
			fmt.Fprintf(t.Out, "%s %s before: nothing to do\n", l.ID, l.State)
		case l.State == "open":
			fmt.Fprintf(t.Out, "%s still dead: %s: %s\n", l.ID, l.Reason, l.Detail)
		default:
			fmt.Fprintf(t.Out, "%s %s\n", l.ID, l.State)
		}
	}
	if more := r.Total - len(r.Letters); more > 0 {
		fmt.Fprintf(t.Out, "and %d more\n", more)
	}
	fmt.Fprintf(t.Out, "%d dead letters: %d retried, %d duplicate, %d discarded, %d still open\n",
		r.Total, r.Counts["retried"], r.Counts["duplicate"], r.Counts["discarded"], r.Counts["open"])
}
