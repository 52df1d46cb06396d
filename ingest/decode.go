package ingest

import (
	"cmp"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/nats-io/nats.go"

	"odometer"
)

// Message is one message as the stream holds it. Kind, partition and tokens are
// what ParseStored reads from its subject; Decode does not need the subject.
type Message struct {
	Subject     string // as stored
	Kind        odometer.Kind
	Partition   int // -1: a subject that the stream's configuration cannot make
	TenantToken string
	AgentToken  string
	Header      nats.Header
	Data        []byte            // the payload, not changed by Decode
	StoredAt    time.Time         // when the stream stored it
	Position    odometer.Position // where the stream stored it; passed on to the event
}

// Bytes is about how much memory the message takes.
func (m *Message) Bytes() int {
	n := len(m.Data)
	for name, values := range m.Header {
		n += len(name)
		for _, v := range values {
			n += len(v)
		}
	}
	return n
}

// Decode reads a message as the contract describes an event, and validates all
// that needs nothing but the message itself. The reasons, in this order:
//
//   - odometer.Malformed: the payload is not one strict JSON object of at most
//     odometer.MaxPayloadBytes;
//   - odometer.InvalidField: a field is missing, of the wrong type or out of
//     range, or a token of the subject is not well-formed;
//   - odometer.SubjectMismatch: payload and subject name different tenants or
//     agents.
//
// Agent and action are for the reader of the stream to look up in the
// catalogue; after that, CheckAge compares the times.
//
// With a rejection, the event holds what was read so far, as much as a dead
// letter shows: kind, tenant and agent of the subject (both zero when it is not
// well-formed), position, stored time, the key if it was valid.
//
// The event's Metadata is a part of m.Data, not a copy.
func Decode(m *Message) (odometer.Event, *odometer.Rejection) {
	var d document
	if r := d.read(m.Data); r != nil {
		e, _ := begin(m)
		return e, r
	}
	return d.decode(m)
}

// decode is Decode for a payload that was read into d.
func (d *document) decode(m *Message) (odometer.Event, *odometer.Rejection) {
	e, unfit := begin(m)
	if unfit != nil {
		return e, unfit
	}
	return e, d.decodeFields(m, &e)
}

// begin makes an event of all but the payload.
func begin(m *Message) (odometer.Event, *odometer.Rejection) {
	e := odometer.Event{
		Kind:       m.Kind,
		RecordedAt: m.StoredAt.UTC().Truncate(time.Microsecond),
		Position:   m.Position,
	}
	return e, readSubject(m, &e)
}

// readSubject takes tenant and agent from the subject's tokens, both or none.
func readSubject(m *Message, e *odometer.Event) *odometer.Rejection {
	tenant, ok := odometer.ParseTenant(m.TenantToken)
	if !ok {
		return invalid("the subject's tenant is %s; allowed: a UUID in canonical lower-case form", shown(m.TenantToken))
	}
	if !odometer.ValidAgent(m.AgentToken) {
		return invalid("the subject's agent is %s; allowed: a lower-case letter, then up to 31 of a-z, 0-9, _ and -", shown(m.AgentToken))
	}
	e.Tenant, e.Agent = tenant, m.AgentToken
	return nil
}

// decodeFields fills in e from the document, whose JSON is valid. The first
// rejection, in the order of the fields here, is returned.
func (d *document) decodeFields(m *Message, e *odometer.Event) *odometer.Rejection {
	if isCloudEvent(m.Header) {
		return d.decodeCloudEvent(m, e)
	}
	return cmp.Or(
		d.readKey(idempotencyKey, e),
		d.readAction(e),
		d.readQuantity(e),
		d.readResource(e),
		d.readOccurred(occurredAt, e),
		d.readMetadata(e),
		d.matchSubject(m),
	)
}

// matchSubject compares the optional tenant_id and agent with the subject's.
// Both types are checked before either value: invalid_field goes before
// subject_mismatch.
func (d *document) matchSubject(m *Message) *odometer.Rejection {
	tenant, r := d.optionalText(tenantID)
	if r != nil {
		return r
	}
	agent, r := d.optionalText(agentID)
	if r != nil {
		return r
	}
	if d[tenantID] != nil && tenant != m.TenantToken {
		return mismatch("tenant_id is %s; allowed: the subject's tenant, %s", shown(tenant), m.TenantToken)
	}
	if d[agentID] != nil && agent != m.AgentToken {
		return mismatch("agent is %s; allowed: the subject's agent, %s", shown(agent), m.AgentToken)
	}
	return nil
}

// CheckAge compares when an event occurred with when the stream stored it: not
// more than odometer.MaxAge before (odometer.TooOld) and not more than
// odometer.MaxAhead after (odometer.InFuture), the limits themselves allowed.
// It comes after agent and action were found in the catalogue.
func CheckAge(e *odometer.Event) *odometer.Rejection {
	oldest, latest := e.RecordedAt.Add(-odometer.MaxAge), e.RecordedAt.Add(odometer.MaxAhead)
	switch {
	case e.OccurredAt.Before(oldest):
		return &odometer.Rejection{Reason: odometer.TooOld, Detail: fmt.Sprintf("occurred_at is %s; allowed: not before %s, 90 days before it was stored", stamp(e.OccurredAt), stamp(oldest))}
	case e.OccurredAt.After(latest):
		return &odometer.Rejection{Reason: odometer.InFuture, Detail: fmt.Sprintf("occurred_at is %s; allowed: not after %s, 5 minutes after it was stored", stamp(e.OccurredAt), stamp(latest))}
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// isCloudEvent reports whether the headers announce a CloudEvent in structured
// JSON mode. NATS keeps the case in which a header was sent.
func isCloudEvent(h nats.Header) bool {
	const name, value = "content-type", "application/cloudevents+json"
	for key, values := range h {
		if len(key) != len(name) || !strings.EqualFold(key, name) {
			continue
		}
		for _, v := range values {
			media, _, _ := strings.Cut(v, ";")
			if strings.EqualFold(strings.TrimSpace(media), value) {
				return true
			}
		}
	}
	return false
}

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

// reject says that a field's value is not what is allowed.
func (d *document) reject(f field, allowed string) *odometer.Rejection {
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
