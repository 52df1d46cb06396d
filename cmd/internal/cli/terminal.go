package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/user"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"golang.org/x/term"
)

// Terminal is where a command speaks: results on out, everything else on err.
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

// IsTerminal reports whether a person watches w.
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

// Operator is the person at this terminal, as far as the system knows.
func Operator() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	if name := os.Getenv("USER"); name != "" {
		return name
	}
	return "unknown"
}

// OrNone is the text, or "none" for nil.
func OrNone(s *string) string {
	if s == nil {
		return "none"
	}
	return *s
}
