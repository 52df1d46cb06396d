package httpingest

import (
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"odometer"
)

// Status is what became of an event.
type Status string

// What can become of an event.
const (
	Accepted  Status = "accepted"  // the stream has stored it
	Duplicate Status = "duplicate" // the stream held these very bytes already, within its short window
	Invalid   Status = "invalid"   // not stored, and never will be as it is
)

// Answer is the body of a 202. Its results are in the order of the request's
// events.
type Answer struct {
	Results   []Result `json:"results" doc:"One for each event, in the request's order."`
	Accepted  int      `json:"accepted"`
	Duplicate int      `json:"duplicate"`
	Invalid   int      `json:"invalid"`
}

// Result is what became of one event.
type Result struct {
	Index          int              `json:"index" doc:"The event's index in the request, from 0; blank lines of NDJSON have none."`
	IdempotencyKey *string          `json:"idempotency_key" doc:"null when it could not be read."`
	Status         Status           `json:"status" enum:"accepted,duplicate,invalid" doc:"duplicate: the stream held these very bytes already, from a moment ago. A later repeat is accepted, and counted nowhere."`
	StreamSeq      *uint64          `json:"stream_seq" doc:"Where the stream holds it; null when it is invalid."`
	Reason         *odometer.Reason `json:"reason" doc:"Why it is invalid, as a dead letter would say; else null."`
	Detail         *string          `json:"detail" doc:"Which field, which value, what is allowed; else null."`
}

// appendAnswer writes the answer. By hand, because reflection would cost more
// than all that was done to find it.
func appendAnswer(b []byte, outcomes []outcome) []byte {
	counts := map[Status]int{}
	b = append(b, `{"results":[`...)
	for i := range outcomes {
		if i > 0 {
			b = append(b, ',')
		}
		var status Status
		b, status = outcomes[i].append(b, i)
		counts[status]++
	}
	b = append(b, `],"accepted":`...)
	b = strconv.AppendInt(b, int64(counts[Accepted]), 10)
	b = append(b, `,"duplicate":`...)
	b = strconv.AppendInt(b, int64(counts[Duplicate]), 10)
	b = append(b, `,"invalid":`...)
	b = strconv.AppendInt(b, int64(counts[Invalid]), 10)
	return append(b, '}')
}

// append writes the result of an event.
func (o *outcome) append(b []byte, index int) ([]byte, Status) {
	b = append(b, `{"index":`...)
	b = strconv.AppendInt(b, int64(index), 10)
	b = append(b, `,"idempotency_key":`...)
	if o.key == "" {
		b = append(b, "null"...)
	} else {
		b = appendText(b, o.key)
	}
	if o.rejection != nil {
		b = append(b, `,"status":"invalid","stream_seq":null,"reason":`...)
		b = appendText(b, string(o.rejection.Reason))
		b = append(b, `,"detail":`...)
		b = appendText(b, o.rejection.Detail)
		return append(b, '}'), Invalid
	}
	status := Accepted
	if o.ack.Duplicate {
		status = Duplicate
	}
	b = append(b, `,"status":"`...)
	b = append(b, status...)
	b = append(b, `","stream_seq":`...)
	b = strconv.AppendUint(b, o.ack.Seq, 10)
	return append(b, `,"reason":null,"detail":null}`...), status
}

// appendText writes a string. Keys and details come from proven JSON, so that
// quoting them cannot fail.
func appendText(b []byte, text string) []byte {
	b, _ = jsontext.AppendQuote(b, text)
	return b
}
