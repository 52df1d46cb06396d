package ingest

import (
	"bytes"
	"cmp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"odometer"
)

// maxActionRunes bounds an action_type; the catalogue decides which there are.
const maxActionRunes = 255

func (d *document) readKey(f field, e *odometer.Event) *odometer.Rejection {
	key, r := d.text(f)
	if r != nil {
		return r
	}
	runes := 0
	for _, c := range key {
		// Most keys are ASCII, and the table behind IsPrint is slow.
		if (c < ' ' || c > '~') && !unicode.IsPrint(c) {
			runes = 0
			break
		}
		runes++
	}
	if runes < 1 || runes > odometer.MaxKeyRunes {
		return d.reject(f, "1 to 255 printable characters")
	}
	e.Key = key
	return nil
}

func (d *document) readAction(e *odometer.Event) *odometer.Rejection {
	if e.Kind == odometer.Adjustment {
		return d.readAdjustmentAction(e)
	}
	action, r := d.text(actionType)
	if r != nil {
		return r
	}
	if !validAction(action) {
		return d.reject(actionType, "one of the agent's actions in the catalogue")
	}
	e.Action = action
	return nil
}

func (d *document) readAdjustmentAction(e *odometer.Event) *odometer.Rejection {
	action, r := d.optionalText(actionType)
	if r != nil {
		return r
	}
	if d[actionType] != nil && action != odometer.AdjustmentAction {
		return d.reject(actionType, `"`+odometer.AdjustmentAction+`" or none, for a correction`)
	}
	e.Action = odometer.AdjustmentAction
	return nil
}

func validAction(action string) bool {
	return action != "" && utf8.RuneCountInString(action) <= maxActionRunes
}

// readQuantity takes digits only: 5.0 and 1e3 are whole numbers to some JSON
// writers and floats to others, so neither is accepted for a quantity.
func (d *document) readQuantity(e *odometer.Event) *odometer.Rejection {
	const usage, adjustment = "a whole number from 1 to 1000000000, in digits only",
		"a whole number from -1000000000 to 1000000000, in digits only, not 0"
	raw := d[quantity]
	if e.Kind == odometer.Adjustment {
		if raw == nil {
			return invalid("quantity is missing; allowed: %s", adjustment)
		}
		n, ok := digits(raw)
		if !ok || n == 0 || n < -odometer.MaxQuantity || n > odometer.MaxQuantity {
			return d.reject(quantity, adjustment)
		}
		e.Quantity = n
		return nil
	}
	if raw == nil {
		e.Quantity = 1
		return nil
	}
	n, ok := digits(raw)
	if !ok || n < 1 || n > odometer.MaxQuantity {
		return d.reject(quantity, usage)
	}
	e.Quantity = n
	return nil
}

// digits reads a JSON number that is written as digits, perhaps after a minus.
func digits(raw jsontext.Value) (int64, bool) {
	const longest = len("-1000000000")
	if raw.Kind() != '0' || len(raw) > longest {
		return 0, false
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	return n, err == nil
}

func (d *document) readResource(e *odometer.Event) *odometer.Rejection {
	resource, r := d.optionalText(resourceID)
	if r != nil || d[resourceID] == nil {
		return r
	}
	if utf8.RuneCountInString(resource) > odometer.MaxResourceRunes {
		return d.reject(resourceID, "at most 255 characters")
	}
	e.Resource = &resource
	return nil
}

func (d *document) readOccurred(f field, e *odometer.Event) *odometer.Rejection {
	e.OccurredAt = e.RecordedAt
	if d[f] == nil {
		return nil
	}
	if d[f].Kind() != '"' {
		return d.reject(f, "a string")
	}
	var at time.Time
	if text := unquoted(d[f]); !rfc3339(text) || at.UnmarshalText(text) != nil {
		return d.reject(f, "a time of RFC 3339 with its offset, such as 2026-11-23T07:15:33Z")
	}
	e.OccurredAt = at.UTC().Truncate(time.Microsecond)
	return nil
}

// rfc3339 checks the form; the clock's numbers are left to package time, which
// on its own also takes 7:15:33, a comma before the fraction and offsets beyond
// a day (go.dev/issue/54580).
func rfc3339(s []byte) bool {
	const form = "0000-00-00T00:00:00"
	if len(s) <= len(form) || !like(s[:len(form)], form) {
		return false
	}
	zone := s[len(form):]
	if zone[0] == '.' {
		fraction := len(zone) - 1 - len(bytes.TrimLeft(zone[1:], "0123456789"))
		if fraction == 0 {
			return false
		}
		zone = zone[1+fraction:]
	}
	if string(zone) == "Z" {
		return true
	}
	return (like(zone, "+00:00") || like(zone, "-00:00")) && string(zone[1:3]) < "24" && string(zone[4:]) < "60"
}

// like reports whether s has a digit wherever form has 0, and is form elsewhere.
func like(s []byte, form string) bool {
	if len(s) != len(form) {
		return false
	}
	for i, c := range s {
		if form[i] == '0' && (c < '0' || c > '9') || form[i] != '0' && c != form[i] {
			return false
		}
	}
	return true
}

// text is the value of a field that must be there and be a string.
func (d *document) text(f field) (string, *odometer.Rejection) {
	if d[f] == nil {
		return "", invalid("%s is missing; allowed: a string", f)
	}
	return d.optionalText(f)
}

// optionalText is the value of a field that must be a string if it is there.
func (d *document) optionalText(f field) (string, *odometer.Rejection) {
	if d[f] == nil {
		return "", nil
	}
	if d[f].Kind() != '"' {
		return "", d.reject(f, "a string")
	}
	return string(unquoted(d[f])), nil
}

// unquoted is the content of a proven JSON string, without a copy where it has
// no escapes.
func unquoted(raw []byte) []byte {
	inner := raw[1 : len(raw)-1]
	if bytes.IndexByte(inner, '\\') < 0 {
		return inner
	}
	text, _ := jsontext.AppendUnquote(nil, raw)
	return text
}

func (d *document) readMetadata(e *odometer.Event) *odometer.Rejection {
	raw := d[metadata]
	if raw == nil {
		return nil
	}
	if raw.Kind() != '{' {
		return d.reject(metadata, "an object")
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
	if len(number) < 16 && !strings.ContainsAny(number, "eE") {
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

// decodeCloudEvent reads a CloudEvent 1.0 in structured JSON mode: id is the
// idempotency key, type is `<agent>.<action_type>`, time is occurred_at, and
// data holds quantity, resource_id and metadata.
func (d *document) decodeCloudEvent(m *Message, e *odometer.Event) *odometer.Rejection {
	agent, r := d.readType(e)
	return cmp.Or(
		d.readKey(ceID, e),
		d.checkEnvelope(),
		r,
		d.readOccurred(ceTime, e),
		d.readData(e),
		matchType(agent, m),
	)
}

func (d *document) checkEnvelope() *odometer.Rejection {
	source, r := d.text(ceSource)
	if r != nil {
		return r
	}
	if source == "" {
		return d.reject(ceSource, "a string that is not empty")
	}
	version, r := d.text(ceSpecVersion)
	if r != nil {
		return r
	}
	if version != "1.0" {
		return d.reject(ceSpecVersion, `"1.0"`)
	}
	return nil
}

// readType takes the action from the type, and returns the agent.
func (d *document) readType(e *odometer.Event) (agent string, r *odometer.Rejection) {
	text, r := d.text(ceType)
	if r != nil {
		return "", r
	}
	agent, action, _ := strings.Cut(text, ".")
	if agent == "" || !validAction(action) {
		return "", d.reject(ceType, "<agent>.<action_type>")
	}
	if e.Kind == odometer.Adjustment && action != odometer.AdjustmentAction {
		return "", d.reject(ceType, "<agent>."+odometer.AdjustmentAction+", for a correction")
	}
	e.Action = action
	return agent, nil
}

// readData reads the members of data as those of an event.
func (d *document) readData(e *odometer.Event) *odometer.Rejection {
	var data document
	if d[ceDataBase64] != nil {
		return d.reject(ceDataBase64, "data as a JSON object, not as bytes: its quantity could not be seen")
	}
	if raw := d[ceData]; raw != nil {
		if raw.Kind() != '{' {
			return d.reject(ceData, "an object")
		}
		// Read once more, as a document of its own: it was proven with the whole.
		if r := data.read(raw); r != nil {
			return r
		}
	}
	return cmp.Or(data.readQuantity(e), data.readResource(e), data.readMetadata(e))
}

func matchType(agent string, m *Message) *odometer.Rejection {
	if agent == m.AgentToken {
		return nil
	}
	return mismatch("type names the agent %s; allowed: the subject's agent, %s", shown(agent), m.AgentToken)
}
