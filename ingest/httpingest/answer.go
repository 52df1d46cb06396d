package httpingest

import "odometer"

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

// newAnswer counts the results by status.
func newAnswer(results []Result) Answer {
	a := Answer{Results: results}
	for _, r := range results {
		switch r.Status {
		case Accepted:
			a.Accepted++
		case Duplicate:
			a.Duplicate++
		case Invalid:
			a.Invalid++
		}
	}
	return a
}
