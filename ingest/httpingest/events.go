package httpingest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"

	"odometer"
	"odometer/api"
	"odometer/ingest"
	"odometer/ingest/publisher"
)

// outcome is what becomes of one event.
type outcome struct {
	key       string              // "" when it could not be read
	rejection *odometer.Rejection // nil for a valid event
	ack       publisher.Ack       // of a valid event, once it is stored
}

// request is one request's events. Its memory is used again.
type request struct {
	body     []byte
	parts    [][]byte // of the body, one for each event
	outcomes []outcome
	valid    []publisher.Raw // those of the outcomes without a rejection, in their order
	answer   []byte
}

// split cuts the body into events.
func (r *request) split(m *media) (err error) {
	body := bytes.Trim(r.body, jsonSpace)
	switch {
	case len(body) == 0:
		return api.NewProblem(api.InvalidRequest, "The body is empty: send an event, or several.")
	case m.lines:
		r.parts, err = splitLines(r.parts, body)
	case body[0] == '[' && m.array:
		r.parts, err = splitArray(r.parts, body)
	case body[0] == '{' && m.one:
		r.parts, err = splitOne(r.parts, body)
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
		return notJSON(r.body)
	}
	return nil
}

// validate prepares what is valid, and rejects the rest. A part that is not even
// JSON is a part of a body that is not, except where each line stands for itself.
func (r *request) validate(tenant uuid.UUID, m *media) error {
	now := time.Now()
	for _, part := range r.parts {
		e, rejection := ingest.Prepare(tenant, part, m.cloud, now)
		if rejection == nil {
			r.valid = append(r.valid, e)
		} else if rejection.Reason == odometer.Malformed && !m.lines && !isJSON(part) {
			return notJSON(r.body)
		}
		r.outcomes = append(r.outcomes, outcome{key: e.Key, rejection: rejection})
	}
	return nil
}

// publish stores what is valid, all of it or an error.
func (r *request) publish(ctx context.Context, p *publisher.Publisher) error {
	results, err := p.PublishGrouped(ctx, r.valid)
	if err != nil {
		return err
	}
	for i := range r.outcomes {
		if r.outcomes[i].rejection == nil {
			r.outcomes[i].ack = results[0].Ack
			results = results[1:]
		}
	}
	return nil
}

// isJSON reports whether a text is one JSON value, whatever names and strings
// hold and however deep it is: what is JSON and cannot be an event is an invalid
// event, what is not JSON spoils the body.
func isJSON(text []byte) bool {
	fault := syntaxError(text)
	return fault == nil || fault.Err.Error() == "exceeded max depth"
}

// syntaxError is where a text stops being JSON, nil when it does not.
func syntaxError(text []byte) *jsontext.SyntacticError {
	_, err := jsontext.AppendFormat(nil, text, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	var fault *jsontext.SyntacticError
	errors.As(err, &fault)
	return fault
}

// notJSON says where a body stops being JSON, and in an array in which value.
func notJSON(body []byte) *api.Problem {
	fault := syntaxError(body)
	if fault == nil { // the splitter is wrong, or the value is too deep to say more
		return api.NewProblem(api.InvalidRequest, "The body is not JSON. Nothing of it was stored.")
	}
	value := ""
	if index, _, _ := strings.Cut(strings.TrimPrefix(string(fault.JSONPointer), "/"), "/"); index != "" && bytes.HasPrefix(bytes.TrimLeft(body, jsonSpace), []byte{'['}) {
		n, _ := strconv.Atoi(index)
		value = fmt.Sprintf(", in its value %d", n+1)
	}
	return api.NewProblem(api.InvalidRequest, "The body is not JSON: at byte offset %d%s: %v. Nothing of it was stored.", fault.ByteOffset, value, fault.Err)
}

// clear forgets the request, and keeps its memory where that is worth it.
func (r *request) clear() {
	clear(r.parts)
	clear(r.outcomes)
	clear(r.valid)
	r.body, r.answer = r.body[:0], r.answer[:0]
	r.parts, r.outcomes, r.valid = r.parts[:0], r.outcomes[:0], r.valid[:0]
	if cap(r.body) > maxKept {
		r.body = nil
	}
	if cap(r.answer) > maxKept {
		r.answer = nil
	}
}

// jsonSpace is the white space of JSON.
const jsonSpace = " \t\r\n"

// Why a body gives no events.
var (
	errTooMany = errors.New("too many events")
	errNotJSON = errors.New("not JSON")
)

// splitLines appends the lines of NDJSON, without the white space around them.
// Blank lines are passed over, and take no index. Whether a line is an object
// is not looked at.
func splitLines(parts [][]byte, body []byte) ([][]byte, error) {
	for len(body) > 0 {
		line, rest, _ := bytes.Cut(body, []byte{'\n'})
		body = rest
		if line = bytes.Trim(line, jsonSpace); len(line) == 0 {
			continue
		}
		if len(parts) == maxEvents {
			return parts, errTooMany
		}
		parts = append(parts, line)
	}
	return parts, nil
}

// splitArray appends the elements of a JSON array, whose bracket is the body's
// first byte. It only finds where each ends: the body is JSON if every element
// is. (A decoder would reject the whole body for one element that is too deep.)
func splitArray(parts [][]byte, body []byte) ([][]byte, error) {
	at := skipSpace(body, 1)
	if at < len(body) && body[at] == ']' {
		return parts, nothingBehind(body, at+1)
	}
	for {
		end := valueEnd(body, at)
		if end < 0 {
			return parts, errNotJSON
		}
		if len(parts) == maxEvents {
			return parts, errTooMany
		}
		parts = append(parts, body[at:end:end])
		at = skipSpace(body, end)
		switch {
		case at < len(body) && body[at] == ',':
			at = skipSpace(body, at+1)
		case at < len(body) && body[at] == ']':
			return parts, nothingBehind(body, at+1)
		default:
			return parts, errNotJSON
		}
	}
}

// splitOne appends the body as the one value that it is.
func splitOne(parts [][]byte, body []byte) ([][]byte, error) {
	end := valueEnd(body, 0)
	if end < 0 {
		return parts, errNotJSON
	}
	return append(parts, body[:end:end]), nothingBehind(body, end)
}

// nothingBehind returns errNotJSON when something follows the end.
func nothingBehind(body []byte, end int) error {
	if skipSpace(body, end) < len(body) {
		return errNotJSON
	}
	return nil
}

func skipSpace(body []byte, at int) int {
	for at < len(body) && (body[at] == ' ' || body[at] == '\n' || body[at] == '\r' || body[at] == '\t') {
		at++
	}
	return at
}

// valueEnd is where the value ends that begins at an index, or -1 when none
// begins there or it is cut off. Brackets are counted and not paired, so that
// depth costs nothing; what is between them may be anything.
func valueEnd(body []byte, at int) int {
	for depth := 0; at < len(body); {
		switch c := body[at]; {
		case c == '"':
			if at = stringEnd(body, at); at < 0 {
				return -1
			}
		case c == '{' || c == '[':
			depth++
			at++
		case c == '}' || c == ']':
			depth--
			at++
		case depth == 0:
			return scalarEnd(body, at)
		default:
			at++
			continue
		}
		if depth <= 0 {
			return at
		}
	}
	return -1
}

// stringEnd is the index behind the quote that ends the string which begins at
// an index, or -1.
func stringEnd(body []byte, at int) int {
	for {
		at++
		n := bytes.IndexByte(body[at:], '"')
		if n < 0 {
			return -1
		}
		at += n
		before := at
		for body[before-1] == '\\' {
			before--
		}
		if (at-before)%2 == 0 {
			return at + 1
		}
	}
}

// scalarEnd is where a number or a word ends, or -1 when none is there.
func scalarEnd(body []byte, at int) int {
	n := bytes.IndexAny(body[at:], " \t\r\n,]}\"[{:")
	switch n {
	case 0:
		return -1
	case -1:
		return len(body)
	}
	return at + n
}
