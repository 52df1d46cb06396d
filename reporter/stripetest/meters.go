package stripetest

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// meter sums the values of raw events.
type meter struct {
	id, eventName, displayName string
	created                    time.Time
	archivedAt                 *time.Time
}

func (m *meter) key() string { return m.id }

func meterID(eventName string) string { return "mtr_" + eventName }

// CreateMeter makes an active meter for an event name. The id comes from the
// name, so that making it again reactivates it.
func (s *Server) CreateMeter(eventName string) (meterID string) {
	now := s.lockNow()
	defer s.mu.Unlock()
	return s.createMeter(eventName, eventName, now).id
}

func (s *Server) createMeter(eventName, displayName string, now time.Time) *meter {
	m := s.meters.of[meterID(eventName)]
	if m == nil {
		m = &meter{id: meterID(eventName), eventName: eventName, created: now}
		s.meters.add(m)
	}
	m.displayName, m.archivedAt = displayName, nil
	return m
}

// ArchiveMeter deactivates a meter: it takes no more events, and invoices still
// bill the ones it has.
func (s *Server) ArchiveMeter(eventName string) {
	now := s.lockNow()
	defer s.mu.Unlock()
	s.meters.must(meterID(eventName)).archivedAt = &now
}

func (s *Server) postMeter(req *request, now time.Time) (object, error) {
	name, display := req.get("event_name"), req.get("display_name")
	switch {
	case display == "":
		return nil, missing("display_name")
	case name == "":
		return nil, missing("event_name")
	case req.get("default_aggregation[formula]") != "sum" || req.get("event_time_window") != "":
		return nil, invalid("default_aggregation[formula]", "", "This stand-in has only meters that sum raw events.")
	}
	if m := s.meters.of[meterID(name)]; m != nil && m.archivedAt == nil {
		return nil, refused(http.StatusBadRequest, apiError{invalidRequest, "",
			"An active meter with event name '" + name + "' already exists.", "event_name"})
	}
	return s.showMeter(s.createMeter(name, display, now)), nil
}

func (s *Server) listMeters(req *request, _ time.Time) (object, error) {
	if err := req.oneOf("status", "active", "inactive"); err != nil {
		return nil, err
	}
	status := req.get("status")
	return list(req, slices.Backward(s.meters.all),
		func(m *meter) bool { return status == "" || status == m.status() }, s.showMeter)
}

func (s *Server) getMeter(req *request, _ time.Time) (object, error) {
	return s.meters.with(req, "id", func(m *meter) (object, error) { return s.showMeter(m), nil })
}

func (m *meter) status() string {
	if m.archivedAt != nil {
		return "inactive"
	}
	return "active"
}

func (s *Server) showMeter(m *meter) object {
	return object{"id": m.id, "object": "billing.meter", "livemode": s.options.Livemode,
		"event_name": m.eventName, "display_name": m.displayName, "status": m.status(), "event_time_window": nil,
		"customer_mapping":    object{"type": "by_id", "event_payload_key": "stripe_customer_id"},
		"default_aggregation": object{"formula": "sum"},
		"value_settings":      object{"event_payload_key": "value"},
		"status_transitions":  object{"deactivated_at": unixOrNull(m.archivedAt)},
		"created":             m.created.Unix(), "updated": m.created.Unix()}
}

// unixOrNull is a time in Stripe's form.
func unixOrNull(t *time.Time) any {
	if t == nil {
		return nil
	}
	return t.Unix()
}

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

// usageEvent is an accepted event. There may be millions, so it holds numbers
// only.
type usageEvent struct {
	timestamp int64 // seconds
	received  int64 // nanoseconds
	value     int64
}

// meterEvent is a request to count something, with its parameters read.
type meterEvent struct {
	name, identifier, customer string
	value                      int64
	timestamp                  time.Time
}

func (s *Server) postMeterEvent(req *request, now time.Time) (object, error) {
	e, err := s.readMeterEvent(req, now)
	if err != nil {
		return nil, err
	}
	// Identifiers come first: Stripe checks them on receipt, and the rest of
	// an event later. So a repeat is recognised even when its meter was
	// archived or its timestamp has become too old since.
	if s.identifiers.get(e.identifier, now) != nil {
		return nil, refused(http.StatusBadRequest, apiError{Type: invalidRequest,
			Message: "An event already exists with identifier " + e.identifier + "."})
	}
	if err := s.validate(e, now); err != nil {
		return nil, err
	}
	s.identifiers.put(e.identifier, struct{}{}, now)
	if req.rejectAsync {
		s.emitErrorReport(s.meters.of[meterID(e.name)], now)
	} else {
		s.addUsage(e, now)
	}
	return object{"object": "billing.meter_event", "created": now.Unix(), "event_name": e.name,
		"identifier": e.identifier, "livemode": s.options.Livemode, "timestamp": e.timestamp.Unix(),
		"payload": object{"stripe_customer_id": e.customer, "value": req.get(payloadValue)}}, nil
}

// readMeterEvent reads the parameters and refuses invalid ones.
func (s *Server) readMeterEvent(req *request, now time.Time) (e meterEvent, err error) {
	e = meterEvent{name: req.get("event_name"), identifier: req.get("identifier"),
		customer: req.get(payloadCustomer), timestamp: now}
	switch {
	case e.name == "":
		return e, missing("event_name")
	case e.customer == "":
		return e, invalid(payloadCustomer, "meter_event_no_customer_defined", "Missing customer mapping payload key: stripe_customer_id.")
	case len(e.identifier) > identifierLength:
		return e, invalid("identifier", "", "Invalid string: "+e.identifier+"; must be at most 100 characters")
	case e.identifier == "":
		e.identifier = s.id("mev")
	}
	if req.form.Has("timestamp") {
		seconds, err := req.integer("timestamp")
		if err != nil {
			return e, err
		}
		e.timestamp = time.Unix(seconds, 0)
	}
	e.value, err = readValue(req.get(payloadValue))
	return e, err
}

func readValue(text string) (int64, error) {
	value, err := strconv.ParseInt(text, 10, 64)
	digits := len(strings.TrimLeft(strings.TrimPrefix(text, "-"), "0"))
	switch {
	case text == "":
		return 0, missing(payloadValue)
	case digits > valueDigits:
		return 0, invalid(payloadValue, "meter_event_value_too_many_digits", "The value has more than 15 digits: "+text)
	case err != nil || strings.HasPrefix(text, "+"):
		return 0, invalid(payloadValue, "meter_event_invalid_value", "The value must be a whole number: "+text)
	}
	return value, nil
}

// validate refuses an event because of the account or the clock.
func (s *Server) validate(e meterEvent, now time.Time) error {
	no400 := func(code, param, message string) error {
		return refused(http.StatusBadRequest, apiError{invalidRequest, code, message, param})
	}
	m, c := s.meters.of[meterID(e.name)], s.customers.of[e.customer]
	switch {
	case m == nil:
		return no400("no_meter", "event_name", "No active meter found for event name '"+e.name+"'.")
	case m.archivedAt != nil:
		return no400("archived_meter", "event_name", "The meter for event name '"+e.name+"' is archived.")
	case c == nil || c.deleted:
		return noSuch(http.StatusBadRequest, "customer", e.customer, payloadCustomer)
	case e.timestamp.Before(now.Add(-oldestTimestamp)):
		return no400("timestamp_too_far_in_past", "timestamp", "The timestamp must be within the past 35 calendar days.")
	case e.timestamp.After(now.Add(clockDrift)):
		return no400("timestamp_in_future", "timestamp", "The timestamp must be no more than 5 minutes in the future.")
	}
	return nil
}

// addUsage adds an event to the ledger. It uses the strings that the server
// holds already, to save memory.
func (s *Server) addUsage(e meterEvent, now time.Time) {
	key := ledgerKey{s.customers.of[e.customer].id, s.meters.of[meterID(e.name)].eventName}
	s.ledger[key] = append(s.ledger[key], usageEvent{e.timestamp.Unix(), now.UnixNano(), e.value})
}

// total sums the usage in [from, to), without any lag.
func (s *Server) total(key ledgerKey, from, to time.Time) (sum int64) {
	for _, u := range s.ledger[key] {
		if within(u.timestamp, from, to) {
			sum += u.value
		}
	}
	return sum
}

// within reports whether a timestamp lies in [from, to).
func within(timestamp int64, from, to time.Time) bool {
	t := time.Unix(timestamp, 0)
	return !t.Before(from) && t.Before(to)
}

// Total is the sum of a customer's accepted events with timestamps in [from,
// to): exact, and without the lag of the summaries.
func (s *Server) Total(customer, eventName string, from, to time.Time) int64 {
	s.lockNow()
	defer s.mu.Unlock()
	return s.total(ledgerKey{customer, eventName}, from, to)
}

// summaryQuery asks for the sums of a customer on a meter over [start, end), in
// one row or a row for each window.
type summaryQuery struct {
	meter      *meter
	customer   string
	start, end int64
	window     int64 // seconds; 0 is one row
}

// listEventSummaries lists the events that Stripe has aggregated by now, newest
// window first. A window without events has no row.
func (s *Server) listEventSummaries(req *request, now time.Time) (object, error) {
	return s.meters.with(req, "id", func(m *meter) (object, error) {
		q, err := readSummaryQuery(req)
		if err != nil {
			return nil, err
		}
		if _, err := s.customers.named(req); err != nil {
			return nil, err
		}
		q.meter = m
		return listRows(req, s.summaryRows(q, now))
	})
}

func readSummaryQuery(req *request) (q summaryQuery, err error) {
	q.customer = req.get("customer")
	if q.customer == "" {
		return q, missing("customer")
	}
	if err := req.oneOf("value_grouping_window", "hour", "day"); err != nil {
		return q, err
	}
	q.window = map[string]int64{"hour": 3600, "day": 86400}[req.get("value_grouping_window")]
	unit := cmp.Or(q.window, 60)
	for name, t := range map[string]*int64{"start_time": &q.start, "end_time": &q.end} {
		if *t, err = req.integer(name); err != nil {
			return q, err
		}
		if *t%unit != 0 {
			return q, invalid(name, "", fmt.Sprintf("The %s must be aligned with %s boundaries.", name, unitName[unit]))
		}
	}
	if q.start >= q.end {
		return q, invalid("end_time", "", "The end_time must be after the start_time.")
	}
	return q, nil
}

var unitName = map[int64]string{60: "minute", 3600: "hour", 86400: "UTC day"}

func (s *Server) summaryRows(q summaryQuery, now time.Time) []object {
	aggregated := now.Add(-s.options.SummaryLag).UnixNano()
	sums := map[int64]int64{} // by the start of the window
	for _, u := range s.ledger[ledgerKey{q.customer, q.meter.eventName}] {
		if u.received > aggregated || u.timestamp < q.start || u.timestamp >= q.end {
			continue
		}
		window := q.start
		if q.window > 0 {
			window = u.timestamp - u.timestamp%q.window
		}
		sums[window] += u.value
	}
	rows := make([]object, 0, len(sums))
	for _, start := range slices.Backward(slices.Sorted(maps.Keys(sums))) {
		end := q.end
		if q.window > 0 {
			end = start + q.window
		}
		rows = append(rows, object{"id": fmt.Sprintf("mtrusg_%s_%s_%d", q.meter.eventName, q.customer, start),
			"object": "billing.meter_event_summary", "livemode": s.options.Livemode, "meter": q.meter.id,
			"start_time": start, "end_time": end, "aggregated_value": sums[start]})
	}
	return rows
}
