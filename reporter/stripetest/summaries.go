package stripetest

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"
)

// summaryQuery asks for the sums of a customer on a meter over [start, end), in
// one row or a row for each window.
type summaryQuery struct {
	meter      *meter
	customer   string
	start, end int64
	window     int64 // seconds; 0 is one row
}

// listEventSummaries shows the events that Stripe has aggregated by now, newest
// window first. A window without events has no row.
func (s *Server) listEventSummaries(req *request) answer {
	now := s.enter()
	defer s.mu.Unlock()
	m, found := s.meters.get(req.id)
	if !found {
		return noSuch(http.StatusNotFound, "meter", req.id, "id")
	}
	q, bad, valid := readSummaryQuery(req)
	if !valid {
		return bad
	}
	if s.customers[q.customer] == nil {
		return noSuch(http.StatusBadRequest, "customer", q.customer, "customer")
	}
	q.meter = m
	return listRows(req, s.summaryRows(q, now))
}

func readSummaryQuery(req *request) (q summaryQuery, bad answer, valid bool) {
	q.customer = req.get("customer")
	if q.customer == "" {
		return q, missing("customer"), false
	}
	unit := int64(60)
	switch grouping := req.get("value_grouping_window"); grouping {
	case "":
	case "hour":
		q.window, unit = 3600, 3600
	case "day":
		q.window, unit = 86400, 86400
	default:
		return q, invalid("value_grouping_window", "", "Invalid value_grouping_window: must be one of hour or day"), false
	}
	for name, t := range map[string]*int64{"start_time": &q.start, "end_time": &q.end} {
		seconds, whole := req.integer(name)
		switch {
		case !req.form.Has(name):
			return q, missing(name), false
		case !whole:
			return q, invalid(name, "parameter_invalid_integer", "Invalid integer: "+req.get(name)), false
		case seconds%unit != 0:
			return q, invalid(name, "", fmt.Sprintf("The %s must be aligned with %s boundaries.", name, unitName[unit])), false
		}
		*t = seconds
	}
	if q.start >= q.end {
		return q, invalid("end_time", "", "The end_time must be after the start_time."), false
	}
	return q, answer{}, true
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
