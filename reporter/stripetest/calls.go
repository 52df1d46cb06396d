package stripetest

import (
	"net/url"
	"sync"
	"time"
)

// Call is one request as it arrived. Status is 0 while it is under way, and
// stays so when it was never answered in full.
type Call struct {
	Method, Path   string
	Form           url.Values
	IdempotencyKey string
	At             time.Time
	Status         int
}

type calls struct {
	mu     sync.Mutex
	record bool
	all    []*Call
}

// RecordCalls turns the record of requests on or off. It is off at first, since
// it grows with every request.
func (s *Server) RecordCalls(on bool) {
	s.calls.mu.Lock()
	defer s.calls.mu.Unlock()
	s.calls.record = on
}

// Calls are the recorded requests in the order of their arrival.
func (s *Server) Calls() []Call {
	s.calls.mu.Lock()
	defer s.calls.mu.Unlock()
	copied := make([]Call, len(s.calls.all))
	for i, c := range s.calls.all {
		copied[i] = *c
	}
	return copied
}

// begin records a request; it returns nil when nothing is recorded.
func (c *calls) begin(req *request, at time.Time) *Call {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.record {
		return nil
	}
	call := &Call{Method: req.Method, Path: req.URL.Path, Form: req.form,
		IdempotencyKey: req.Header.Get("Idempotency-Key"), At: at}
	c.all = append(c.all, call)
	return call
}

func (c *calls) end(call *Call, status int) {
	if call == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	call.Status = status
}
