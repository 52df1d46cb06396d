package ingest

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"

	"github.com/go-json-experiment/json/jsontext"

	"odometer"
)

// field numbers the members of an event that have a meaning.
type field int

const (
	idempotencyKey field = iota
	actionType
	quantity
	resourceID
	occurredAt
	metadata
	tenantID
	agentID
	// The members of a CloudEvent; its data holds some of those above.
	ceID
	ceSource
	ceSpecVersion
	ceType
	ceTime
	ceData
	ceDataBase64
	fieldCount
)

var fieldNames = [fieldCount]string{
	"idempotency_key", "action_type", "quantity", "resource_id", "occurred_at", "metadata", "tenant_id", "agent",
	"id", "source", "specversion", "type", "time", "data", "data_base64",
}

func (f field) String() string { return fieldNames[f] }

// fieldNamed finds a field by a member's name, given as the JSON string that
// the document holds. Case matters; an escape makes no other name.
func fieldNamed(quoted []byte) (field, bool) {
	name := unquoted(quoted)
	for f, known := range fieldNames {
		if string(name) == known {
			return field(f), true
		}
	}
	return 0, false
}

// document holds the raw values of an event's members, parts of the payload.
// nil is absent, which a null is too.
type document [fieldCount]jsontext.Value

// read proves that data is one strict JSON object, whole and to its end, and
// collects the members. No field is validated before that, so that malformed goes
// before every other reason.
func (d *document) read(data []byte) *odometer.Rejection {
	if len(data) > odometer.MaxPayloadBytes {
		return malformed("the payload has %d bytes; allowed: %d", len(data), odometer.MaxPayloadBytes)
	}
	r := readers.Get().(*reader)
	defer readers.Put(r)
	if err := r.object(data, d); err != nil {
		return malformed("%s; allowed: one JSON object in UTF-8, no name twice, nothing before or after it", describe(err))
	}
	if hasNUL(data) {
		return malformed(`a string holds the character U+0000 (\u0000); allowed: any other character`)
	}
	return nil
}

var readers = sync.Pool{New: func() any { return new(reader) }}

// reader is a decoder that is used again.
type reader struct {
	dec jsontext.Decoder
	buf bytes.Buffer
}

var errNotObject = errors.New("the payload is not a JSON object")

// object reads data to its end into d. The decoder refuses duplicate names,
// invalid UTF-8, lone surrogates and a byte order mark.
func (r *reader) object(data []byte, d *document) error {
	// A bytes.Buffer is what the decoder reads from without copying.
	r.buf = *bytes.NewBuffer(data)
	r.dec.Reset(&r.buf)
	if kind := r.dec.PeekKind(); kind != '{' && kind != 0 {
		return errNotObject
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return err
	}
	for r.dec.PeekKind() == '"' {
		if err := r.member(data, d); err != nil {
			return err
		}
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return err
	}
	if _, err := r.dec.ReadToken(); err == nil {
		return errors.New("something follows the JSON object")
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

func (r *reader) member(data []byte, d *document) error {
	name, err := r.dec.ReadValue()
	if err != nil {
		return err
	}
	f, known := fieldNamed(name)
	value, err := r.dec.ReadValue()
	if err != nil {
		return err
	}
	if known && value.Kind() != 'n' {
		end := r.dec.InputOffset()
		d[f] = data[end-int64(len(value)) : end : end]
	}
	return nil
}

// hasNUL reports whether a proven JSON document holds the escape of U+0000, in
// a name or a value. Postgres can store that character in no text. The text
// `\\u0000` is a backslash and five characters.
func hasNUL(data []byte) bool {
	escape := []byte(`\u0000`)
	for from := 0; ; {
		at := bytes.Index(data[from:], escape)
		if at < 0 {
			return false
		}
		at += from
		before := at
		for before > 0 && data[before-1] == '\\' {
			before--
		}
		if (at-before)%2 == 0 {
			return true
		}
		from = at + len(escape)
	}
}

// describe is a decoder's error in words for the sender.
func describe(err error) string {
	if errors.Is(err, io.EOF) {
		return "the payload is empty"
	}
	return printable(strings.TrimPrefix(err.Error(), "jsontext: "), 300)
}
