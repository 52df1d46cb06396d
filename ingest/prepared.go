package ingest

import (
	"context"
	"strings"
	"time"

	"github.com/google/uuid"

	"odometer"
)

// Prepared is an event that was found valid, with its subject and message id:
// all that is left is to publish it.
type Prepared struct{ outgoing }

// Key is the event's idempotency_key, "" when it could not be read.
func (p *Prepared) Key() string { return p.key }

// Prepare judges an event whose sender has no subject: the tenant is that of
// the sender's token, the agent is taken from the payload, which needs one here,
// or from a CloudEvent's type. With them the verdict is the one of Validate, but
// its detail does not speak of a subject. The payload is sent
// as it is, and not to be changed until it is published.
//
// With a rejection, the key is all that is prepared.
func Prepare(tenant uuid.UUID, payload []byte, cloudEvent bool, now time.Time) (Prepared, *odometer.Rejection) {
	var d document
	if rejection := d.read(payload); rejection != nil {
		return Prepared{}, rejection
	}
	key, find := idempotencyKey, d.agent
	if cloudEvent {
		key, find = ceID, d.typedAgent
	}
	agent, rejection := find()
	if rejection != nil {
		return Prepared{outgoing{key: d.key(key)}}, rejection
	}
	o, rejection := d.address(Raw{Tenant: tenant, Agent: agent, Payload: payload, CloudEvent: cloudEvent}, now)
	if rejection != nil && rejection.Reason == odometer.SubjectMismatch {
		// The agent is the event's own, so it is the tenant.
		named, _ := d.optionalText(tenantID)
		rejection = mismatch("tenant_id is %s; allowed: the token's tenant, %s", shown(named), tenant)
	}
	return Prepared{o}, rejection
}

// PublishPrepared is PublishBatch for events that are prepared already, and for
// many callers at once: what they publish at the same time shares its batches,
// and so the cost of each.
func (p *Publisher) PublishPrepared(ctx context.Context, events []Prepared) ([]Result, error) {
	return p.publishBatch(ctx, len(events), p.sendTogether, func(i int) (outgoing, *odometer.Rejection) { return events[i].outgoing, nil })
}

const agentForm = "a lower-case letter, then up to 31 of a-z, 0-9, _ and -"

// agent is the one that an event names.
func (d *document) agent() (string, *odometer.Rejection) {
	agent, r := d.text(agentID)
	if r != nil {
		return "", r
	}
	if !odometer.ValidAgent(agent) {
		return "", d.refuse(agentID, agentForm)
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
		return "", d.refuse(ceType, "<agent>.<action_type>, where an agent is "+agentForm)
	}
	return agent, nil
}

// key is the event's key, "" where it is not valid.
func (d *document) key(f field) string {
	var e odometer.Event
	d.readKey(f, &e)
	return e.Key
}
