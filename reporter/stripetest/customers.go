package stripetest

import (
	"maps"
	"net/http"
	"time"
)

type customer struct {
	id            string
	metadata      map[string]string
	created       time.Time
	deleted       bool
	subscriptions []*subscription
	invoices      []*invoice
}

// CreateCustomer makes a customer, or gives an existing one new metadata and
// undoes its deletion.
func (s *Server) CreateCustomer(id string, metadata map[string]string) {
	now := s.enter()
	defer s.mu.Unlock()
	c := s.customers[id]
	if c == nil {
		c = &customer{id: id, created: now}
		s.customers[id] = c
	}
	c.metadata, c.deleted = maps.Clone(metadata), false
}

// DeleteCustomer deletes a customer and cancels its subscriptions at once,
// without invoicing their usage.
func (s *Server) DeleteCustomer(id string) {
	now := s.enter()
	defer s.mu.Unlock()
	c := s.mustCustomer(id)
	c.deleted = true
	for _, sub := range c.subscriptions {
		if !sub.ended() {
			s.cancel(sub, now)
		}
	}
	s.emit("customer.deleted", s.showCustomer(c), now)
}

// mustCustomer is for exported calls, where an unknown customer is a mistake in
// the test.
func (s *Server) mustCustomer(id string) *customer {
	c := s.customers[id]
	if c == nil {
		panic("stripetest: no such customer: " + id)
	}
	return c
}

func (s *Server) getCustomer(req *request) answer {
	s.enter()
	defer s.mu.Unlock()
	c := s.customers[req.id]
	switch {
	case c == nil:
		return noSuch(http.StatusNotFound, "customer", req.id, "id")
	case c.deleted:
		return ok(object{"id": c.id, "object": "customer", "deleted": true})
	}
	return ok(s.showCustomer(c))
}

func (s *Server) showCustomer(c *customer) object {
	return object{"id": c.id, "object": "customer", "created": c.created.Unix(), "livemode": s.options.Livemode,
		"metadata": orEmpty(c.metadata), "currency": "usd", "balance": 0, "delinquent": false}
}

// customerField is a customer as a field of another object: its id, or all of
// it when the request expands it.
func (s *Server) customerField(id string, expanded bool) any {
	if c := s.customers[id]; c != nil && expanded {
		return s.showCustomer(c)
	}
	return id
}

func orEmpty(metadata map[string]string) map[string]string {
	if metadata == nil {
		return map[string]string{}
	}
	return metadata
}
