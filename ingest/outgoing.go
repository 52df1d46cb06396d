package ingest

import (
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"odometer"
)

const (
	contentTypeHeader = "Content-Type"
	cloudEventType    = "application/cloudevents+json"
)

var cloudEventHeader = nats.Header{contentTypeHeader: {cloudEventType}}

// outgoing is a valid event on its way to the stream. Every attempt sends the
// same subject, payload and id.
type outgoing struct {
	subject    string
	id         string // Nats-Msg-Id
	key        string // for errors
	payload    []byte
	cloudEvent bool
}

// address validates an event and gives it subject and id. With a rejection,
// only the key is set, as far as it could be read.
func address(r Raw, now time.Time) (outgoing, *odometer.Rejection) {
	var d document
	if rejection := d.read(r.Payload); rejection != nil {
		return outgoing{}, rejection
	}
	return d.address(r, now)
}

// address is address for a payload that was read into d.
func (d *document) address(r Raw, now time.Time) (outgoing, *odometer.Rejection) {
	m := r.message(now)
	e, rejection := d.decode(&m)
	if rejection == nil {
		rejection = CheckAge(&e)
	}
	if rejection != nil {
		return outgoing{key: e.Key}, rejection
	}
	subject := subjectOf(m.Kind, m.TenantToken, m.AgentToken)
	return outgoing{
		subject:    subject,
		id:         MessageID(subject, r.Payload),
		key:        e.Key,
		payload:    r.Payload,
		cloudEvent: r.CloudEvent,
	}, nil
}

// write makes a message of the client library the one to send, whatever it was
// before: the library adds headers to it.
func (o *outgoing) write(m *nats.Msg) {
	if m.Header == nil {
		m.Header = make(nats.Header, 4)
	}
	clear(m.Header)
	m.Header[jetstream.MsgIDHeader] = []string{o.id}
	if o.cloudEvent {
		m.Header[contentTypeHeader] = cloudEventHeader[contentTypeHeader]
	}
	m.Subject, m.Reply, m.Data = o.subject, "", o.payload
}
