package bench

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"odometer/cmd/internal/cli"
)

// formats are how a figure of a table is written. A field of a line is a column
// when it has the tag column:"header;format".
var formats = map[string]func(float64) string{
	"thousands": thousands,
	"ratio":     ratioText,
	"%.0f":      func(f float64) string { return orDash(f, "%.0f") },
	"%.1f":      func(f float64) string { return orDash(f, "%.1f") },
	"%.2f":      func(f float64) string { return orDash(f, "%.2f") },
	"memory":    func(f float64) string { return orDash(f/(1<<20), "%.0f MiB") },
}

// printTable prints lines as a table with a note below it, and nothing when
// there are none.
func printTable[T any](t *cli.Terminal, lines []T, note string) {
	if lines == nil {
		return
	}
	var header table.Row
	var numbers []int
	rows := make([]table.Row, len(lines))
	of := reflect.TypeFor[T]()
	for i := range of.NumField() {
		tag, shown := of.Field(i).Tag.Lookup("column")
		if !shown {
			continue
		}
		name, format, _ := strings.Cut(tag, ";")
		header = append(header, name)
		for n := range lines {
			switch v := reflect.ValueOf(lines[n]).Field(i); {
			case v.CanInt():
				rows[n] = append(rows[n], formats[format](float64(v.Int())))
			case v.CanFloat():
				rows[n] = append(rows[n], formats[format](v.Float()))
			default:
				rows[n] = append(rows[n], v.String())
			}
		}
		if format != "" {
			numbers = append(numbers, len(header))
		}
	}
	t.Table(header, rows, numbers...)
	fmt.Fprintf(t.Out, "%s\n\n", note)
}

// median of the values that get takes from each of all.
func median[T any](all []T, get func(T) float64) float64 {
	values := make([]float64, len(all))
	for i, one := range all {
		values[i] = get(one)
	}
	slices.Sort(values)
	switch n := len(values); {
	case n == 0:
		return 0
	case n%2 == 0:
		return (values[n/2-1] + values[n/2]) / 2
	default:
		return values[n/2]
	}
}

// medianRatio is the median of the ratios of all to base, round by round.
func medianRatio[T any](all, base []T, get func(T) float64) float64 {
	var ratios []float64
	for i := range all {
		if to := get(base[i]); to > 0 { // a pause of the machine gives no ratio
			ratios = append(ratios, get(all[i])/to)
		}
	}
	return median(ratios, func(r float64) float64 { return r })
}

// percentile sorts took and returns the value that the share of it does not exceed.
func percentile(took []time.Duration, share float64) time.Duration {
	if len(took) == 0 {
		return 0
	}
	slices.Sort(took)
	return took[int(share*float64(len(took)-1))]
}

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

func ratioText(r float64) string {
	if r >= 10 {
		return fmt.Sprintf("%.0f", r)
	}
	return fmt.Sprintf("%.3g", r)
}

// orDash is a figure, or a dash for what is not known or does not exist.
func orDash(f float64, format string) string {
	if f == 0 {
		return "-"
	}
	return fmt.Sprintf(format, f)
}

// thousands writes a figure with a space between its thousands.
func thousands(f float64) string {
	text := orDash(f, "%.0f")
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + " " + text[i:]
	}
	return text
}
