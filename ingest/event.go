package ingest

import (
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"

	"odometer"
)

// Event is what an agent says it did. Publisher.Publish encodes it the same way
// each time, so that a repeat is the same bytes.
type Event struct {
	Kind   odometer.Kind // odometer.Adjustment for a correction, else odometer.Usage
	Tenant uuid.UUID
	Agent  string

	IdempotencyKey string    // made and stored by the agent before it acts; required
	ActionType     string    // required, but not for a correction
	Quantity       int64     // units; 0 stands for the default, 1
	ResourceID     string    // "" for none
	OccurredAt     time.Time // zero: when the stream stores it; kept to the microsecond
	Metadata       []byte    // a JSON object, nil for none; no personal data
}

// raw encodes the event. A string that is not UTF-8 cannot be sent as it is, so
// it is refused and not mended.
func (e *Event) raw() (Raw, *odometer.Rejection) {
	b := make([]byte, 0, 256+len(e.Metadata))
	b, err := appendText(append(b, '{'), idempotencyKey, e.IdempotencyKey)
	if err == nil && e.ActionType != "" {
		b, err = appendText(append(b, ','), actionType, e.ActionType)
	}
	if e.Quantity != 0 {
		b = append(b, `,"quantity":`...)
		b = strconv.AppendInt(b, e.Quantity, 10)
	}
	if err == nil && e.ResourceID != "" {
		b, err = appendText(append(b, ','), resourceID, e.ResourceID)
	}
	if !e.OccurredAt.IsZero() {
		b = append(b, `,"occurred_at":"`...)
		b = e.OccurredAt.UTC().Truncate(time.Microsecond).AppendFormat(b, time.RFC3339Nano)
		b = append(b, '"')
	}
	if e.Metadata != nil {
		b = append(b, `,"metadata":`...)
		b = append(b, e.Metadata...)
	}
	if err != nil {
		return Raw{}, malformed("%s", plain(err))
	}
	return Raw{Kind: e.Kind, Tenant: e.Tenant, Agent: e.Agent, Payload: append(b, '}')}, nil
}

func appendText(b []byte, name field, text string) ([]byte, error) {
	b = append(b, '"')
	b = append(b, name.String()...)
	b = append(b, `":`...)
	return jsontext.AppendQuote(b, text)
}

// Raw is an event as its sender wrote it.
type Raw struct {
	Kind       odometer.Kind // odometer.Adjustment for a correction, else odometer.Usage
	Tenant     uuid.UUID
	Agent      string
	Payload    []byte // sent as it is; not to be changed until it is published
	CloudEvent bool   // the payload is a CloudEvent in structured JSON mode
}

// Validate judges an event as the reader of the stream will, catalogue aside,
// taking now for the time at which the stream stores it. nil is valid.
func Validate(r Raw, now time.Time) *odometer.Rejection {
	_, rejection := address(r, now)
	return rejection
}

// message is the event as the stream would hold it.
func (r *Raw) message(now time.Time) Message {
	m := Message{
		Kind:        r.kind(),
		TenantToken: r.Tenant.String(),
		AgentToken:  r.Agent,
		Data:        r.Payload,
		StoredAt:    now,
	}
	if r.CloudEvent {
		m.Header = cloudEventHeader
	}
	return m
}

func (r *Raw) kind() odometer.Kind {
	if r.Kind == odometer.Adjustment {
		return odometer.Adjustment
	}
	return odometer.Usage
}
