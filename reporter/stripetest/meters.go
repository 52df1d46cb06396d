package stripetest

import (
	"net/http"
	"time"
)

// meter sums the values of raw events.
type meter struct {
	id, eventName, displayName string
	created                    time.Time
	archivedAt                 *time.Time
	number                     int
}

func (m *meter) key() string { return m.id }
func (m *meter) place() int  { return m.number }

// CreateMeter makes an active meter for an event name. The id comes from the
// name, so that making it again reactivates it.
func (s *Server) CreateMeter(eventName string) (meterID string) {
	now := s.enter()
	defer s.mu.Unlock()
	return s.createMeter(eventName, eventName, now).id
}

func (s *Server) createMeter(eventName, displayName string, now time.Time) *meter {
	m := s.meterOf[eventName]
	if m == nil {
		m = &meter{id: "mtr_" + eventName, eventName: eventName, created: now, number: len(s.meters.all)}
		s.meters.add(m)
		s.meterOf[eventName] = m
	}
	m.displayName, m.archivedAt = displayName, nil
	return m
}

// ArchiveMeter deactivates a meter: it takes no more events, and invoices still
// bill the ones it has.
func (s *Server) ArchiveMeter(eventName string) {
	now := s.enter()
	defer s.mu.Unlock()
	m := s.meterOf[eventName]
	if m == nil {
		panic("stripetest: no such meter: " + eventName)
	}
	m.archivedAt = &now
}

func (s *Server) postMeter(req *request) answer {
	name, display := req.get("event_name"), req.get("display_name")
	switch {
	case display == "":
		return missing("display_name")
	case name == "":
		return missing("event_name")
	case req.get("default_aggregation[formula]") != "sum" || req.get("event_time_window") != "":
		return invalid("default_aggregation[formula]", "", "This stand-in has only meters that sum raw events.")
	}
	now := s.enter()
	defer s.mu.Unlock()
	if m := s.meterOf[name]; m != nil && m.archivedAt == nil {
		return refused(http.StatusBadRequest, apiError{invalidRequest, "",
			"An active meter with event name '" + name + "' already exists.", "event_name"})
	}
	return ok(s.showMeter(s.createMeter(name, display, now)))
}

func (s *Server) listMeters(req *request) answer {
	s.enter()
	defer s.mu.Unlock()
	status := req.get("status")
	if status != "" && status != "active" && status != "inactive" {
		return invalid("status", "", "Invalid status: must be one of active or inactive")
	}
	return list(req, &s.meters, s.meters.all,
		func(m *meter) bool { return status == "" || status == m.status() }, s.showMeter)
}

func (s *Server) getMeter(req *request) answer {
	s.enter()
	defer s.mu.Unlock()
	m, found := s.meters.get(req.id)
	if !found {
		return noSuch(http.StatusNotFound, "meter", req.id, "id")
	}
	return ok(s.showMeter(m))
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

// unixOrNull is a time as Stripe writes it.
func unixOrNull(t *time.Time) any {
	if t == nil {
		return nil
	}
	return t.Unix()
}
