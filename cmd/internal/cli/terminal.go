package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/user"

	"github.com/jedib0t/go-pretty/v6/progress"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"golang.org/x/term"
)

// Terminal is where a command prints: results on out, everything else on err.
type Terminal struct {
	Out, Err io.Writer
	Log      *slog.Logger
}

// NewTerminal logs to err in a format (text or json) from a level on.
func NewTerminal(out, err io.Writer, format, level string) *Terminal {
	var least slog.Level
	_ = least.UnmarshalText([]byte(level)) // the flag's enum allows only levels
	options := &slog.HandlerOptions{Level: least}
	var handler slog.Handler = slog.NewTextHandler(err, options)
	if format == "json" {
		handler = slog.NewJSONHandler(err, options)
	}
	return &Terminal{Out: out, Err: err, Log: slog.New(handler)}
}

// IsTerminal reports whether w is a terminal.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// JSON prints a value as JSON, indented for reading.
func (t *Terminal) JSON(value any) error {
	encoder := json.NewEncoder(t.Out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// Table prints rows under a header; columns named in right are numbers.
func (t *Terminal) Table(header table.Row, rows []table.Row, right ...int) {
	fmt.Fprintln(t.Out, FormatTable(header, rows, right...))
}

// FormatTable is a table as text; right are the numbers of right-aligned columns, from 1.
func FormatTable(header table.Row, rows []table.Row, right ...int) string {
	w := table.NewWriter()
	w.SetStyle(table.StyleLight)
	w.Style().Options.DrawBorder = false
	w.Style().Options.SeparateColumns = false
	w.Style().Format.Header = text.FormatDefault
	w.AppendHeader(header)
	w.AppendRows(rows)
	var configs []table.ColumnConfig
	for _, n := range right {
		configs = append(configs, table.ColumnConfig{Number: n, Align: text.AlignRight, AlignHeader: text.AlignRight})
	}
	w.SetColumnConfigs(configs)
	return w.Render()
}

// Operator is the person at this terminal, by the name that the system knows.
func Operator() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	if name := os.Getenv("USER"); name != "" {
		return name
	}
	return "unknown"
}

// ValueOr is what p points to, or the default for nil.
func ValueOr[T any](p *T, missing T) T {
	if p == nil {
		return missing
	}
	return *p
}

// Progress shows how far a command is, with the rate and the time left: a bar on
// a terminal, and nothing elsewhere.
type Progress struct {
	t     *Terminal
	units progress.Units

	step     string
	writer   progress.Writer // nil before the first step
	tracker  *progress.Tracker
	rendered chan struct{}
}

// CountProgress counts things.
func CountProgress(t *Terminal) *Progress { return &Progress{t: t, units: progress.UnitsDefault} }

// ByteProgress counts bytes.
func ByteProgress(t *Terminal) *Progress { return &Progress{t: t, units: progress.UnitsBytes} }

// At shows that so much of a step's total is done. A new step has a new bar.
func (p *Progress) At(step string, done, total int64) {
	if !IsTerminal(p.t.Err) {
		return
	}
	if p.writer == nil || p.step != step {
		p.Done(nil)
		p.start(step, total)
	}
	p.tracker.SetValue(done)
}

func (p *Progress) start(step string, total int64) {
	p.step, p.rendered = step, make(chan struct{})
	p.tracker = &progress.Tracker{Message: step, Total: total, Units: p.units}
	writer := progress.NewWriter()
	p.writer = writer
	writer.SetOutputWriter(p.t.Err)
	writer.SetAutoStop(true)
	writer.Style().Visibility.ETA = true
	writer.Style().Visibility.Speed = true
	writer.AppendTracker(p.tracker)
	go func() {
		defer close(p.rendered)
		writer.Render()
	}()
}

// Done ends the last step's bar; an err marks it as failed.
func (p *Progress) Done(err error) {
	if p.writer == nil {
		return
	}
	if err != nil {
		p.tracker.MarkAsErrored()
	} else {
		p.tracker.MarkAsDone()
	}
	<-p.rendered
	p.writer = nil
}
