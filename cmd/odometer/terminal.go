package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"golang.org/x/term"
)

// terminal is where a command speaks: results on out, everything else on err.
type terminal struct {
	out, err io.Writer
	log      *slog.Logger
}

func newTerminal(out, err io.Writer, format, level string) *terminal {
	var least slog.Level
	_ = least.UnmarshalText([]byte(level)) // the flag's enum allows only levels
	options := &slog.HandlerOptions{Level: least}
	var handler slog.Handler = slog.NewTextHandler(err, options)
	if format == "json" {
		handler = slog.NewJSONHandler(err, options)
	}
	return &terminal{out: out, err: err, log: slog.New(handler)}
}

// interactive reports whether a person watches w.
func interactive(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// json prints a value as JSON, indented for reading.
func (t *terminal) json(value any) error {
	encoder := json.NewEncoder(t.out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// table prints rows under a header; columns named in right are numbers.
func (t *terminal) table(header table.Row, rows []table.Row, right ...int) {
	fmt.Fprintln(t.out, renderTable(header, rows, right...))
}

func renderTable(header table.Row, rows []table.Row, right ...int) string {
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
