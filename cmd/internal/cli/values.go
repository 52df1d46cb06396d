package cli

import (
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

// ValueTypes are how values of flags and variables are read, and refused: by
// themselves the parsers' complaints are about layouts and bits.
var ValueTypes = []kong.Option{
	kong.TypeMapper(reflect.TypeFor[time.Time](), mapper(parseTime)),
	kong.TypeMapper(reflect.TypeFor[*time.Time](), mapper(parseOptionalTime)), // which would be read as text
	kong.TypeMapper(reflect.TypeFor[time.Duration](), mapper(parseDuration)),
	kong.KindMapper(reflect.Int, mapper(parseInteger[int])),
	kong.KindMapper(reflect.Int64, mapper(parseInteger[int64])),
}

// mapper makes a mapper of what reads a text.
func mapper[T any](read func(string) (T, error)) kong.MapperFunc {
	return func(c *kong.DecodeContext, target reflect.Value) error {
		token, err := c.Scan.PopValue("value")
		if err != nil {
			return err
		}
		v, err := read(token.String())
		if err == nil {
			target.Set(reflect.ValueOf(v).Convert(target.Type()))
		}
		return err
	}
}

func parseTime(s string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, fmt.Errorf("%q is no time: give it by RFC 3339, as 2026-11-01T00:00:00Z or 2026-11-01T09:30:00+01:00", s)
	}
	return t, nil
}

func parseOptionalTime(s string) (*time.Time, error) {
	t, err := parseTime(s)
	return &t, err
}

func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		return d, fmt.Errorf("%q is no duration: give numbers with units, as 90s, 15m or 1h30m", s)
	}
	return d, nil
}

func parseInteger[T int | int64](s string) (T, error) {
	n, err := strconv.ParseInt(s, 10, reflect.TypeFor[T]().Bits())
	if err != nil {
		return 0, fmt.Errorf("%q is no whole number, or too large for one", s)
	}
	return T(n), nil
}

// Days is a duration that may also be given in days: 35d.
type Days time.Duration

// UnmarshalText reads 35d, or anything that time.ParseDuration reads.
func (d *Days) UnmarshalText(text []byte) error {
	s := string(text)
	const day = 24 * time.Hour
	if n, found := strings.CutSuffix(s, "d"); found {
		count, err := strconv.ParseFloat(n, 64)
		// Beyond that a duration cannot count, and NaN is in no range.
		if span := count * float64(day); err == nil && span > -1<<63 && span < 1<<63 {
			*d = Days(span)
			return nil
		}
	} else if plain, err := time.ParseDuration(s); err == nil {
		*d = Days(plain)
		return nil
	}
	return fmt.Errorf("%q is no duration: give numbers with units, as 35d, 12h or 1h30m", s)
}

func (d Days) String() string {
	if day := 24 * time.Hour; time.Duration(d)%day == 0 {
		return fmt.Sprintf("%dd", time.Duration(d)/day)
	}
	return time.Duration(d).String()
}

// noValue matches the parser's error for a flag without a value.
var noValue = regexp.MustCompile(`: expected \w+ value but got "(.*?)" \(.*$`)

// UsageMessage is what is wrong with a command line.
func UsageMessage(err error) string {
	text := OneLine(err)
	switch found := noValue.FindStringSubmatch(text); {
	case found == nil:
		return text
	case found[1] == "EOL":
		return noValue.ReplaceAllLiteralString(text, ": its value is missing")
	default:
		return noValue.ReplaceAllLiteralString(text, fmt.Sprintf(": its value is missing, %q comes next: a value that begins with a dash is written --flag=value", found[1]))
	}
}

// Stored is a time as Postgres keeps it: in UTC, to the microsecond.
func Stored(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

// StoredOrNil is Stored for a time that may be missing.
func StoredOrNil(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	kept := Stored(*t)
	return &kept
}
