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

// split cuts a body into events.
func split(body []byte, m *media) (parts [][]byte, err error) {
	trimmed := bytes.Trim(body, jsonSpace)
	switch {
	case len(trimmed) == 0:
		return nil, api.NewProblem(api.InvalidRequest, "The body is empty: send an event, or several.")
	case m.lines:
		parts, err = splitLines(trimmed)
	case trimmed[0] == '[' && m.array:
		parts, err = splitArray(trimmed)
	case trimmed[0] == '{' && m.one:
		parts, err = splitOne(trimmed)
	case trimmed[0] == '[':
		return nil, api.NewProblem(api.InvalidRequest, "The body is an array: %s is one event. Send several as application/cloudevents-batch+json.", m.name)
	case trimmed[0] == '{':
		return nil, api.NewProblem(api.InvalidRequest, "The body is an object: %s is an array of events. Send one as application/cloudevents+json.", m.name)
	default:
		return nil, api.NewProblem(api.InvalidRequest, "The body begins with %.20q: send a JSON object, or an array of them.", trimmed)
	}
	switch {
	case errors.Is(err, errTooMany):
		return nil, api.NewProblem(api.TooLarge, "The body has more than %d events: send fewer at once.", maxEvents)
	case err != nil:
		return nil, notJSON(body)
	}
	return parts, nil
}

// validate returns what became of each part so far, and what is to be published:
// the events of the results that are Accepted, in their order. A part that is
// not even JSON is a part of a body that is not, except where each line stands
// for itself.
func validate(body []byte, parts [][]byte, tenant uuid.UUID, m *media) (results []Result, valid []publisher.Raw, err error) {
	now := time.Now()
	for i, part := range parts {
		e, rejection := ingest.Prepare(tenant, part, m.cloud, now)
		result := Result{Index: i, Status: Accepted}
		if e.Key != "" {
			result.IdempotencyKey = &e.Key
		}
		switch {
		case rejection == nil:
			valid = append(valid, e)
		case rejection.Reason == odometer.Malformed && !m.lines && !isJSON(part):
			return nil, nil, notJSON(body)
		default:
			result.Status, result.Reason, result.Detail = Invalid, &rejection.Reason, &rejection.Detail
		}
		results = append(results, result)
	}
	return results, valid, nil
}

// publish stores what is valid, all of it or an error, and completes the results.
func publish(ctx context.Context, p *publisher.Publisher, valid []publisher.Raw, results []Result) error {
	stored, err := p.PublishGrouped(ctx, valid)
	if err != nil {
		return err
	}
	for i := range results {
		if results[i].Status == Invalid {
			continue
		}
		if stored[0].Ack.Duplicate {
			results[i].Status = Duplicate
		}
		results[i].StreamSeq = &stored[0].Ack.Seq
		stored = stored[1:]
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

// jsonSpace is the white space of JSON.
const jsonSpace = " \t\r\n"

// Why a body gives no events.
var (
	errTooMany = errors.New("too many events")
	errNotJSON = errors.New("not JSON")
)

// splitLines returns the lines of NDJSON, without the white space around them.
// Blank lines are passed over, and take no index. Whether a line is an object
// is not checked.
func splitLines(body []byte) (parts [][]byte, err error) {
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

// splitArray returns the elements of a JSON array, whose bracket is the body's
// first byte. It only finds where each ends: the body is JSON if every element
// is. (A decoder would reject the whole body for one element that is too deep.)
func splitArray(body []byte) (parts [][]byte, err error) {
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

// splitOne returns the body as the one value that it is.
func splitOne(body []byte) ([][]byte, error) {
	end := valueEnd(body, 0)
	if end < 0 {
		return nil, errNotJSON
	}
	return [][]byte{body[:end:end]}, nothingBehind(body, end)
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
