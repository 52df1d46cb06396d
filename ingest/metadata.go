package ingest

import (
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"odometer"
)

func (d *document) readMetadata(e *odometer.Event) *odometer.Rejection {
	raw := d[metadata]
	if raw == nil {
		return nil
	}
	if raw.Kind() != '{' {
		return d.refuse(metadata, "an object")
	}
	if len(raw) > odometer.MaxMetadataBytes {
		return invalid("metadata has %d bytes; allowed: %d", len(raw), odometer.MaxMetadataBytes)
	}
	if r := checkNesting(raw); r != nil {
		return r
	}
	e.Metadata = raw
	return nil
}

// checkNesting walks through proven JSON and finds what Postgres' jsonb would
// refuse or another reader of it choke on: depth, and numbers beyond float64.
func checkNesting(raw jsontext.Value) *odometer.Rejection {
	depth := 0
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case c == '"':
			i = stringEnd(raw, i)
		case c == '{' || c == '[':
			if depth++; depth > odometer.MaxMetadataDepth {
				return invalid("metadata is nested deeper than %d levels; allowed: %d, itself included", odometer.MaxMetadataDepth, odometer.MaxMetadataDepth)
			}
		case c == '}' || c == ']':
			depth--
		case c == '-' || '0' <= c && c <= '9':
			end := numberEnd(raw, i)
			if number := string(raw[i:end]); !fitsFloat64(number) {
				return invalid("metadata holds the number %s; allowed: what a 64-bit float can hold, at most about 1.8e308 and not closer to zero than about 4.9e-324", printable(number, shownRunes))
			}
			i = end - 1
		}
	}
	return nil
}

// stringEnd is the index of the quote that ends the string that begins at i.
func stringEnd(raw jsontext.Value, i int) int {
	for i++; raw[i] != '"'; i++ {
		if raw[i] == '\\' {
			i++
		}
	}
	return i
}

func numberEnd(raw jsontext.Value, i int) int {
	for i < len(raw) && strings.IndexByte("+-.eE0123456789", raw[i]) >= 0 {
		i++
	}
	return i
}

// fitsFloat64 reports whether a JSON number neither overflows a float64 nor
// vanishes in it. A zero must fit too: Postgres keeps the scale of 0e-400000,
// and refuses it.
func fitsFloat64(number string) bool {
	if len(number) < 16 && strings.IndexAny(number, "eE") < 0 {
		return true
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return false
	}
	if f != 0 {
		return true
	}
	mantissa, exponent := number, "0"
	if at := strings.IndexAny(number, "eE"); at >= 0 {
		mantissa, exponent = number[:at], number[at+1:]
	}
	if strings.ContainsAny(mantissa, "123456789") {
		return false
	}
	scale, err := strconv.Atoi(exponent)
	return err == nil && -maxZeroScale <= scale && scale <= maxZeroScale
}

// maxZeroScale bounds the exponent of a zero: float64's own range.
const maxZeroScale = 324
