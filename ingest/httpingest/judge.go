package httpingest

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"odometer"
	"odometer/api"
	"odometer/ingest"
	"odometer/ingest/publisher"
)

// verdict is what becomes of one event.
type verdict struct {
	key       string              // "" when it could not be read
	rejection *odometer.Rejection // nil for a valid event
	ack       publisher.Ack       // of a valid event, once it is stored
}

// intake is one request's events. It is used again.
type intake struct {
	body     []byte
	parts    [][]byte // of the body, one for each event
	verdicts []verdict
	valid    []publisher.Raw // those of the verdicts without a rejection, in their order
	answer   []byte
}

// split cuts the body into events.
func (in *intake) split(m *media) (err error) {
	body := bytes.Trim(in.body, jsonSpace)
	switch {
	case len(body) == 0:
		return api.NewProblem(api.InvalidRequest, "The body is empty: send an event, or several.")
	case m.lines:
		in.parts, err = splitLines(in.parts, body)
	case body[0] == '[' && m.array:
		in.parts, err = splitArray(in.parts, body)
	case body[0] == '{' && m.one:
		in.parts, err = splitOne(in.parts, body)
	case body[0] == '[':
		return api.NewProblem(api.InvalidRequest, "The body is an array: %s is one event. Send several as application/cloudevents-batch+json.", m.name)
	case body[0] == '{':
		return api.NewProblem(api.InvalidRequest, "The body is an object: %s is an array of events. Send one as application/cloudevents+json.", m.name)
	default:
		return api.NewProblem(api.InvalidRequest, "The body begins with %.20q: send a JSON object, or an array of them.", body)
	}
	switch {
	case errors.Is(err, errTooMany):
		return api.NewProblem(api.TooLarge, "The body has more than %d events: send fewer at once.", maxEvents)
	case err != nil:
		return notJSON(in.body)
	}
	return nil
}

// judge prepares what is valid, and rejects the rest. A part that is not even
// JSON is a part of a body that is not, except where each line stands for itself.
func (in *intake) judge(tenant uuid.UUID, m *media) error {
	now := time.Now()
	for _, part := range in.parts {
		e, rejection := ingest.Prepare(tenant, part, m.cloud, now)
		if rejection == nil {
			in.valid = append(in.valid, e)
		} else if rejection.Reason == odometer.Malformed && !m.lines && !wellFormed(part) {
			return notJSON(in.body)
		}
		in.verdicts = append(in.verdicts, verdict{key: e.Key, rejection: rejection})
	}
	return nil
}

// publish stores what is valid, all of it or an error.
func (in *intake) publish(ctx context.Context, p *publisher.Publisher) error {
	results, err := p.PublishGrouped(ctx, in.valid)
	if err != nil {
		return err
	}
	for i := range in.verdicts {
		if in.verdicts[i].rejection == nil {
			in.verdicts[i].ack = results[0].Ack
			results = results[1:]
		}
	}
	return nil
}

// clear forgets the request, and keeps its memory where that is worth it.
func (in *intake) clear() {
	clear(in.parts)
	clear(in.verdicts)
	clear(in.valid)
	in.body, in.answer = in.body[:0], in.answer[:0]
	in.parts, in.verdicts, in.valid = in.parts[:0], in.verdicts[:0], in.valid[:0]
	if cap(in.body) > maxKept {
		in.body = nil
	}
	if cap(in.answer) > maxKept {
		in.answer = nil
	}
}
