package query

import (
	"errors"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"odometer/api"
)

// moment is a time in a query.
type moment struct{ time.Time }

// plausible reports whether anything can have happened then. The database and
// RFC 3339 can write what lies a window beyond it.
func plausible(t time.Time) bool { return t.Year() >= 1970 && t.Year() <= 2999 }

// UnmarshalText reads a time of RFC 3339.
func (m *moment) UnmarshalText(text []byte) error {
	t, err := time.Parse(time.RFC3339, string(text))
	switch {
	case err != nil && strings.Contains(string(text), " "):
		return errors.New("a + in a query is a space: write %2B, or the time in UTC with Z")
	case err != nil:
		return errors.New("it must be a time of RFC 3339, as 2026-11-01T00:00:00Z")
	case !plausible(t):
		return errors.New("it must be in the years 1970 to 2999")
	}
	m.Time = t
	return nil
}

// Schema describes it.
func (moment) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Format: "date-time", Examples: []any{"2026-11-01T00:00:00Z"}}
}

func noCursor(cursor string) error {
	return refuse(ErrInvalid, "cursor is %q: it must be the next_cursor of an answer to the same question. Leave it out to begin anew.", api.Excerpt(cursor))
}
