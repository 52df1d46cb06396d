package ingest

import (
	"fmt"
	"strings"
	"unicode"

	"odometer"
)

// shownRunes bounds how much of a sender's value a detail repeats.
const shownRunes = 60

func malformed(format string, args ...any) *odometer.Rejection {
	return &odometer.Rejection{Reason: odometer.Malformed, Detail: fmt.Sprintf(format, args...)}
}

func invalid(format string, args ...any) *odometer.Rejection {
	return &odometer.Rejection{Reason: odometer.InvalidField, Detail: fmt.Sprintf(format, args...)}
}

func mismatch(format string, args ...any) *odometer.Rejection {
	return &odometer.Rejection{Reason: odometer.SubjectMismatch, Detail: fmt.Sprintf(format, args...)}
}

// refuse says that a field's value is not what is allowed.
func (d *document) refuse(f field, allowed string) *odometer.Rejection {
	return invalid("%s is %s; allowed: %s", f, printable(string(d[f]), shownRunes), allowed)
}

// shown is a sender's text in quotes, short enough for a detail.
func shown(s string) string { return `"` + printable(s, shownRunes) + `"` }

// printable is s with what cannot be printed escaped, so that every store and
// terminal can take it, and cut after a number of characters.
func printable(s string, runes int) string {
	var b strings.Builder
	for _, c := range s {
		if runes--; runes < 0 {
			b.WriteString("…")
			break
		}
		if unicode.IsPrint(c) {
			b.WriteRune(c)
		} else {
			fmt.Fprintf(&b, `\u%04x`, c)
		}
	}
	return b.String()
}
