package stripetest

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Stripe's limits for a meter event.
const (
	identifierLength = 100
	valueDigits      = 15 // what a double holds exactly
	oldestTimestamp  = 35 * 24 * time.Hour
	clockDrift       = 5 * time.Minute

	payloadCustomer = "payload[stripe_customer_id]"
	payloadValue    = "payload[value]"
)

// ledgerKey names the usage of a customer on a meter, by its event name.
type ledgerKey struct{ customer, meter string }

// usage is an accepted event. There may be millions, so it holds numbers only.
type usage struct {
	timestamp int64 // seconds
	received  int64 // nanoseconds
	value     int64
}

// meterEvent is a request to count something, once its parameters were read.
type meterEvent struct {
	name, identifier, customer string
	value                      int64
	timestamp                  time.Time
}

func (s *Server) postMeterEvent(req *request) answer {
	now := s.enter()
	defer s.mu.Unlock()
	e, bad, valid := s.readMeterEvent(req, now)
	if !valid {
		return bad
	}
	// Identifiers come first: Stripe looks at them as it receives an event, and
	// at the rest of it later. So a repeat is told apart also when its meter
	// was archived or its timestamp grew too old meanwhile.
	if _, known := s.identifiers.get(e.identifier, now); known {
		return refused(http.StatusBadRequest, apiError{Type: invalidRequest,
			Message: "An event already exists with identifier " + e.identifier + "."})
	}
	if no, fine := s.judge(e, now); !fine {
		return no
	}
	s.identifiers.put(e.identifier, struct{}{}, now)
	if req.discarded {
		s.emitErrorReport(s.meterOf[e.name], now)
	} else {
		s.count(e, now)
	}
	return ok(object{"object": "billing.meter_event", "created": now.Unix(), "event_name": e.name,
		"identifier": e.identifier, "livemode": s.options.Livemode, "timestamp": e.timestamp.Unix(),
		"payload": object{"stripe_customer_id": e.customer, "value": req.get(payloadValue)}})
}

// readMeterEvent reads the parameters and refuses what is wrong in itself.
func (s *Server) readMeterEvent(req *request, now time.Time) (e meterEvent, bad answer, valid bool) {
	e = meterEvent{name: req.get("event_name"), identifier: req.get("identifier"),
		customer: req.get(payloadCustomer), timestamp: now}
	if e.name == "" {
		return e, missing("event_name"), false
	}
	if e.customer == "" {
		return e, invalid(payloadCustomer, "meter_event_no_customer_defined", "Missing customer mapping payload key: stripe_customer_id."), false
	}
	if len(e.identifier) > identifierLength {
		return e, invalid("identifier", "", "Invalid string: "+e.identifier+"; must be at most 100 characters"), false
	}
	if e.identifier == "" {
		e.identifier = s.id("mev")
	}
	if req.form.Has("timestamp") {
		seconds, whole := req.integer("timestamp")
		if !whole {
			return e, invalid("timestamp", "parameter_invalid_integer", "Invalid integer: "+req.get("timestamp")), false
		}
		e.timestamp = time.Unix(seconds, 0)
	}
	e.value, bad, valid = readValue(req.get(payloadValue))
	return e, bad, valid
}

func readValue(text string) (value int64, bad answer, valid bool) {
	value, err := strconv.ParseInt(text, 10, 64)
	digits := len(strings.TrimLeft(strings.TrimPrefix(text, "-"), "0"))
	switch {
	case text == "":
		return 0, missing(payloadValue), false
	case digits > valueDigits:
		return 0, invalid(payloadValue, "meter_event_value_too_many_digits", "The value has more than 15 digits: "+text), false
	case err != nil || strings.HasPrefix(text, "+"):
		return 0, invalid(payloadValue, "meter_event_invalid_value", "The value must be a whole number: "+text), false
	}
	return value, answer{}, true
}

// judge refuses an event for what the account and the clock say.
func (s *Server) judge(e meterEvent, now time.Time) (no answer, fine bool) {
	no400 := func(code, param, message string) answer {
		return refused(http.StatusBadRequest, apiError{invalidRequest, code, message, param})
	}
	m, c := s.meterOf[e.name], s.customers[e.customer]
	switch {
	case m == nil:
		return no400("no_meter", "event_name", "No active meter found for event name '"+e.name+"'."), false
	case m.archivedAt != nil:
		return no400("archived_meter", "event_name", "The meter for event name '"+e.name+"' is archived."), false
	case c == nil || c.deleted:
		return noSuch(http.StatusBadRequest, "customer", e.customer, payloadCustomer), false
	case e.timestamp.Before(now.Add(-oldestTimestamp)):
		return no400("timestamp_too_far_in_past", "timestamp", "The timestamp must be within the past 35 calendar days."), false
	case e.timestamp.After(now.Add(clockDrift)):
		return no400("timestamp_in_future", "timestamp", "The timestamp must be no more than 5 minutes in the future."), false
	}
	return answer{}, true
}

// count adds an event to the ledger, under the strings that are held already.
func (s *Server) count(e meterEvent, now time.Time) {
	key := ledgerKey{s.customers[e.customer].id, s.meterOf[e.name].eventName}
	s.ledger[key] = append(s.ledger[key], usage{e.timestamp.Unix(), now.UnixNano(), e.value})
}

// total sums what was used in [from, to), as it is known without any lag.
func (s *Server) total(key ledgerKey, from, to time.Time) (sum int64) {
	for _, u := range s.ledger[key] {
		if within(u.timestamp, from, to) {
			sum += u.value
		}
	}
	return sum
}

// within tells whether a timestamp lies in [from, to).
func within(timestamp int64, from, to time.Time) bool {
	t := time.Unix(timestamp, 0)
	return !t.Before(from) && t.Before(to)
}

// Total is what the accepted events of a customer sum up to, by their timestamps
// in [from, to): exact, and without the lag of the summaries.
func (s *Server) Total(customer, eventName string, from, to time.Time) int64 {
	s.enter()
	defer s.mu.Unlock()
	return s.total(ledgerKey{customer, eventName}, from, to)
}
