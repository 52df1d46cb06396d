package ingest

import (
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"odometer"
	"odometer/ingest/publisher"
)

// Validate validates an event as the reader of the stream will, catalogue
// aside, taking now for the time at which the stream stores it. nil is valid.
func Validate(r publisher.Raw, now time.Time) *odometer.Rejection {
	var d document
	if rejection := d.read(r.Payload); rejection != nil {
		return rejection
	}
	_, rejection := d.validate(r, now)
	return rejection
}

var cloudEventHeader = nats.Header{"Content-Type": {"application/cloudevents+json"}}

// validate is Validate for a payload that was read into d. The event is what
// could be read.
func (d *document) validate(r publisher.Raw, now time.Time) (odometer.Event, *odometer.Rejection) {
	m := Message{Kind: odometer.Usage, TenantToken: r.Tenant.String(), AgentToken: r.Agent, Data: r.Payload, StoredAt: now}
	if r.Adjustment {
		m.Kind = odometer.Adjustment
	}
	if r.CloudEvent {
		m.Header = cloudEventHeader
	}
	e, rejection := d.decode(&m)
	if rejection == nil {
		rejection = CheckAge(&e)
	}
	return e, rejection
}

// Prepare makes an event ready to publish whose sender has no subject: the
// tenant is that of the sender's token, the agent is taken from the payload,
// which needs one here, or from a CloudEvent's type. With them it decides as
// Validate does, but no detail speaks of a subject. The payload is sent as it
// is, and not to be changed until it is published.
//
// With a rejection only the key is set, as far as it could be read.
func Prepare(tenant uuid.UUID, payload []byte, cloudEvent bool, now time.Time) (publisher.Raw, *odometer.Rejection) {
	var d document
	if rejection := d.read(payload); rejection != nil {
		return publisher.Raw{}, rejection
	}
	key, find := idempotencyKey, d.agent
	if cloudEvent {
		key, find = ceID, d.typedAgent
	}
	agent, rejection := find()
	if rejection != nil {
		return publisher.Raw{Key: d.key(key)}, rejection
	}
	raw := publisher.Raw{Tenant: tenant, Agent: agent, Payload: payload, CloudEvent: cloudEvent}
	e, rejection := d.validate(raw, now)
	raw.Key = e.Key
	if rejection != nil && rejection.Reason == odometer.SubjectMismatch {
		// The agent is the event's own, so it is the tenant.
		named, _ := d.optionalText(tenantID)
		rejection = mismatch("tenant_id is %s; allowed: the token's tenant, %s", shown(named), tenant)
	}
	return raw, rejection
}

// prepareLine is Prepare for a line of a file, which names tenant and agent.
func prepareLine(payload []byte, now time.Time) (publisher.Raw, *odometer.Rejection) {
	var d document
	if r := d.read(payload); r != nil {
		return publisher.Raw{}, r
	}
	tenant, rejection := d.tenant()
	if rejection != nil {
		return publisher.Raw{Key: d.key(idempotencyKey)}, rejection
	}
	agent, rejection := d.agent()
	if rejection != nil {
		return publisher.Raw{Key: d.key(idempotencyKey)}, rejection
	}
	raw := publisher.Raw{Tenant: tenant, Agent: agent, Payload: payload}
	e, rejection := d.validate(raw, now)
	raw.Key = e.Key
	return raw, rejection
}

const agentForm = "a lower-case letter, then up to 31 of a-z, 0-9, _ and -"

// agent is the one that an event names.
func (d *document) agent() (string, *odometer.Rejection) {
	agent, r := d.text(agentID)
	if r != nil {
		return "", r
	}
	if !odometer.ValidAgent(agent) {
		return "", d.reject(agentID, agentForm)
	}
	return agent, nil
}

// typedAgent is the one that a CloudEvent's type begins with.
func (d *document) typedAgent() (string, *odometer.Rejection) {
	text, r := d.text(ceType)
	if r != nil {
		return "", r
	}
	agent, _, _ := strings.Cut(text, ".")
	if !odometer.ValidAgent(agent) {
		return "", d.reject(ceType, "<agent>.<action_type>, where an agent is "+agentForm)
	}
	return agent, nil
}

// tenant is the one that an event names.
func (d *document) tenant() (uuid.UUID, *odometer.Rejection) {
	text, r := d.text(tenantID)
	if r != nil {
		return uuid.Nil, r
	}
	tenant, ok := odometer.ParseTenant(text)
	if !ok {
		return uuid.Nil, d.reject(tenantID, "a UUID in canonical lower-case form")
	}
	return tenant, nil
}

// key is the event's key, "" where it is not valid.
func (d *document) key(f field) string {
	var e odometer.Event
	_ = d.readKey(f, &e) // sets a valid key
	return e.Key
}
