package publisher

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Limits of an event.
const (
	maxPayloadBytes  = 64 << 10
	maxRunes         = 255 // of idempotency_key, action_type and resource_id
	maxQuantity      = 1_000_000_000
	maxMetadataBytes = 8 << 10
	maxMetadataDepth = 32
	maxAge           = 90 * 24 * time.Hour
	maxAhead         = 5 * time.Minute
)

// Event is what an agent says it did. It is encoded the same way each time, so
// that a repeat is the same bytes, also after the event was kept as JSON.
type Event struct {
	Tenant     uuid.UUID
	Agent      string // a lower-case letter, then up to 31 of a-z, 0-9, _ and -
	Adjustment bool   // a correction, for operators; agents leave it false

	IdempotencyKey string    // made and stored by the agent before it acts; 1 to 255 printable characters
	ActionType     string    // one of the agent's actions; empty for a correction
	Quantity       int64     // units, 1 to 1,000,000,000; 0 stands for 1. A correction has either sign, and never 0
	ResourceID     string    // "" for none; at most 255 characters
	OccurredAt     time.Time // zero: when the stream stores it; kept to the microsecond
	Metadata       []byte    // a JSON object of at most 8 KiB, empty for none; no personal data
}

// Reasons of a Rejection. When several apply, the first of them is given.
const (
	Malformed    = "malformed"     // the payload would not be one strict JSON object of at most 64 KiB
	InvalidField = "invalid_field" // a field is missing or out of range
	TooOld       = "too_old"       // occurred more than 90 days ago
	InFuture     = "in_future"     // occurs more than 5 minutes from now
)

// Rejection is why an event is not valid: it was not sent, and never will be
// valid as it is.
type Rejection struct {
	Reason string
	Detail string // which field, which value, what is allowed
}

func (r *Rejection) Error() string { return r.Reason + ": " + r.Detail }

func reject(reason, format string, args ...any) *Rejection {
	return &Rejection{Reason: reason, Detail: fmt.Sprintf(format, args...)}
}

// Raw is an event that is encoded already.
type Raw struct {
	Tenant     uuid.UUID
	Agent      string
	Adjustment bool
	Key        string // idempotency_key, only repeated in results and errors
	Payload    []byte // sent as it is; not to be changed until it is published
	CloudEvent bool   // the payload is a CloudEvent in structured JSON mode
}

// Encode returns an event as Publish sends it, or why it is not valid, taking
// now for the time at which the stream stores it. Whether the catalogue has the
// agent and the action is not known here.
func Encode(e Event, now time.Time) (Raw, *Rejection) {
	raw := Raw{Tenant: e.Tenant, Agent: e.Agent, Adjustment: e.Adjustment, Key: e.IdempotencyKey}
	payload, rejection := e.encode()
	if rejection != nil {
		return raw, rejection
	}
	raw.Payload = payload
	return raw, cmp.Or(
		e.checkJSON(payload),
		raw.check(),
		e.checkKey(),
		e.checkAction(),
		e.checkQuantity(),
		e.checkResource(),
		e.checkYear(),
		e.checkMetadata(),
		e.checkAge(now),
	)
}

func (e *Event) encode() ([]byte, *Rejection) {
	b := make([]byte, 0, 256+len(e.Metadata))
	b, rejection := appendText(append(b, '{'), "idempotency_key", e.IdempotencyKey)
	if rejection == nil && e.ActionType != "" {
		b, rejection = appendText(append(b, ','), "action_type", e.ActionType)
	}
	if e.Quantity != 0 {
		b = append(b, `,"quantity":`...)
		b = strconv.AppendInt(b, e.Quantity, 10)
	}
	if rejection == nil && e.ResourceID != "" {
		b, rejection = appendText(append(b, ','), "resource_id", e.ResourceID)
	}
	if !e.OccurredAt.IsZero() {
		b = append(b, `,"occurred_at":"`...)
		b = e.occurredAt().AppendFormat(b, time.RFC3339Nano)
		b = append(b, '"')
	}
	if len(e.Metadata) > 0 {
		b = append(b, `,"metadata":`...)
		b = append(b, e.Metadata...)
	}
	return append(b, '}'), rejection
}

func (e *Event) occurredAt() time.Time { return e.OccurredAt.UTC().Truncate(time.Microsecond) }

// appendText refuses a string that is not UTF-8 instead of changing it.
func appendText(b []byte, name, text string) ([]byte, *Rejection) {
	b = append(b, '"')
	b = append(b, name...)
	b = append(b, `":`...)
	b, err := jsontext.AppendQuote(b, text)
	switch {
	case err != nil:
		return b, reject(Malformed, "%s is %.60q; allowed: UTF-8", name, text)
	case strings.IndexByte(text, 0) >= 0:
		return b, reject(Malformed, "%s holds the character U+0000; allowed: any other character", name)
	}
	return b, nil
}

// checkJSON makes sure that the payload is one strict JSON object. Of its parts,
// only metadata can spoil that.
func (e *Event) checkJSON(payload []byte) *Rejection {
	switch {
	case len(payload) > maxPayloadBytes:
		return reject(Malformed, "the payload has %d bytes; allowed: %d", len(payload), maxPayloadBytes)
	case len(e.Metadata) == 0:
		return nil
	case !jsontext.Value(e.Metadata).IsValid() || !jsontext.Value(payload).IsValid():
		return reject(Malformed, "metadata is %.60q; allowed: one JSON object in UTF-8, no name twice, nothing before or after it", e.Metadata)
	case holdsNUL(e.Metadata):
		return reject(Malformed, `metadata holds the character U+0000 (\u0000); allowed: any other character`)
	}
	return nil
}

// holdsNUL reports whether valid JSON holds the escape of U+0000: a backslash
// that is not itself escaped, and u0000.
func holdsNUL(text []byte) bool {
	for {
		before, after, found := bytes.Cut(text, []byte(`\u0000`))
		if !found {
			return false
		}
		backslashes := len(before) - len(bytes.TrimRight(before, `\`))
		if backslashes%2 == 0 {
			return true
		}
		text = after
	}
}

// check makes sure that the event has a subject and is not too large.
func (r *Raw) check() *Rejection {
	if len(r.Payload) > maxPayloadBytes {
		return reject(Malformed, "the payload has %d bytes; allowed: %d", len(r.Payload), maxPayloadBytes)
	}
	for i, c := range []byte(r.Agent) {
		letter := 'a' <= c && c <= 'z'
		if !letter && (i == 0 || (c < '0' || c > '9') && c != '_' && c != '-') {
			return r.rejectAgent()
		}
	}
	if r.Agent == "" || len(r.Agent) > 32 {
		return r.rejectAgent()
	}
	return nil
}

func (r *Raw) rejectAgent() *Rejection {
	return reject(InvalidField, "the agent is %.60q; allowed: a lower-case letter, then up to 31 of a-z, 0-9, _ and -", r.Agent)
}

func (e *Event) checkKey() *Rejection {
	key := e.IdempotencyKey
	if key == "" || utf8.RuneCountInString(key) > maxRunes || strings.ContainsFunc(key, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return reject(InvalidField, "idempotency_key is %.60q; allowed: 1 to %d printable characters", key, maxRunes)
	}
	return nil
}

func (e *Event) checkAction() *Rejection {
	switch action := e.ActionType; {
	case e.Adjustment && action != "" && action != "adjustment":
		return reject(InvalidField, `action_type is %.60q; allowed: "adjustment" or none, for a correction`, action)
	case !e.Adjustment && (action == "" || utf8.RuneCountInString(action) > maxRunes):
		return reject(InvalidField, "action_type is %.60q; allowed: one of the agent's actions in the catalogue", action)
	}
	return nil
}

func (e *Event) checkQuantity() *Rejection {
	switch n := e.Quantity; {
	case e.Adjustment && (n == 0 || n < -maxQuantity || n > maxQuantity):
		return reject(InvalidField, "quantity is %d; allowed: a whole number from -%d to %d, not 0", n, maxQuantity, maxQuantity)
	case !e.Adjustment && (n < 0 || n > maxQuantity):
		return reject(InvalidField, "quantity is %d; allowed: a whole number from 1 to %d", n, maxQuantity)
	}
	return nil
}

func (e *Event) checkResource() *Rejection {
	if utf8.RuneCountInString(e.ResourceID) > maxRunes {
		return reject(InvalidField, "resource_id is %.60q; allowed: at most %d characters", e.ResourceID, maxRunes)
	}
	return nil
}

// checkYear refuses a time that RFC 3339 cannot write.
func (e *Event) checkYear() *Rejection {
	if year := e.occurredAt().Year(); !e.OccurredAt.IsZero() && (year < 0 || year > 9999) {
		return reject(InvalidField, "occurred_at is in the year %d; allowed: 0 to 9999", year)
	}
	return nil
}

func (e *Event) checkAge(now time.Time) *Rejection {
	now = now.UTC().Truncate(time.Microsecond)
	oldest, latest := now.Add(-maxAge), now.Add(maxAhead)
	switch at := e.occurredAt(); {
	case e.OccurredAt.IsZero():
		return nil
	case at.Before(oldest):
		return reject(TooOld, "occurred_at is %s; allowed: not before %s, 90 days ago", at.Format(time.RFC3339Nano), oldest.Format(time.RFC3339Nano))
	case at.After(latest):
		return reject(InFuture, "occurred_at is %s; allowed: not after %s, 5 minutes from now", at.Format(time.RFC3339Nano), latest.Format(time.RFC3339Nano))
	}
	return nil
}

// checkMetadata refuses, in valid JSON, what the database cannot keep.
func (e *Event) checkMetadata() *Rejection {
	raw := jsontext.Value(bytes.TrimSpace(e.Metadata))
	switch {
	case len(raw) == 0 || raw.Kind() == 'n':
		return nil
	case raw.Kind() != '{':
		return reject(InvalidField, "metadata is %.60q; allowed: an object", raw)
	case len(raw) > maxMetadataBytes:
		return reject(InvalidField, "metadata has %d bytes; allowed: %d", len(raw), maxMetadataBytes)
	}
	tokens := jsontext.NewDecoder(bytes.NewBuffer(raw))
	for token, err := tokens.ReadToken(); err == nil; token, err = tokens.ReadToken() { // valid JSON: the error is the end
		if tokens.StackDepth() > maxMetadataDepth {
			return reject(InvalidField, "metadata is nested deeper than %d levels; allowed: %d, itself included", maxMetadataDepth, maxMetadataDepth)
		}
		if token.Kind() == '0' && !fitsFloat64(token.String()) {
			return reject(InvalidField, "metadata holds the number %.60s; allowed: what a 64-bit float can hold, at most about 1.8e308 and not closer to zero than about 4.9e-324", token)
		}
	}
	return nil
}

// fitsFloat64 reports whether a number neither overflows a float64 nor becomes
// zero in it. The database also refuses a zero with a large exponent.
func fitsFloat64(number string) bool {
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || f != 0 {
		return err == nil
	}
	mantissa, exponent, _ := strings.Cut(strings.ToLower(number), "e")
	scale, err := strconv.Atoi(cmp.Or(exponent, "0"))
	return err == nil && -324 <= scale && scale <= 324 && !strings.ContainsAny(mantissa, "123456789")
}

// message is a valid event on its way to the stream. Every attempt sends the
// same subject, payload and id.
type message struct {
	subject    string
	id         string // Nats-Msg-Id
	key        string // for results and errors
	payload    []byte
	cloudEvent bool
}

func (r *Raw) message() (message, *Rejection) {
	if rejection := r.check(); rejection != nil {
		return message{key: r.Key}, rejection
	}
	kind := "usage."
	if r.Adjustment {
		kind = "adjust."
	}
	subject := kind + r.Tenant.String() + "." + r.Agent
	return message{subject: subject, id: MessageID(subject, r.Payload), key: r.Key, payload: r.Payload, cloudEvent: r.CloudEvent}, nil
}

var cloudEventType = []string{"application/cloudevents+json"}

// write makes wire the message to send, whatever it was before: nats.go adds
// headers to it.
func (m *message) write(wire *nats.Msg) {
	if wire.Header == nil {
		wire.Header = make(nats.Header, 4)
	}
	clear(wire.Header)
	wire.Header[jetstream.MsgIDHeader] = []string{m.id}
	if m.cloudEvent {
		wire.Header["Content-Type"] = cloudEventType
	}
	wire.Subject, wire.Reply, wire.Data = m.subject, "", m.payload
}

// MessageID is the value of the header Nats-Msg-Id for a payload published to
// a subject: base64url, without padding, of SHA-256(subject ‖ payload), 43
// characters. It is made of the content and not of the idempotency key, so
// that the server's duplicate window can swallow nothing but the very same
// bytes on the very same subject: with a key as id, a second event under that
// key, which must become a visible conflict, would vanish inside the window.
func MessageID(subject string, payload []byte) string {
	var room [1 << 10]byte // for most events
	sum := sha256.Sum256(append(append(room[:0], subject...), payload...))
	var id [43]byte
	base64.RawURLEncoding.Encode(id[:], sum[:])
	return string(id[:])
}
