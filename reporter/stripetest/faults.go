package stripetest

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// Fault is one way for a request to go wrong. Before means that nothing was
// executed, After that all of it was.
type Fault int

// The faults, as the client sees them.
const (
	NoFault              Fault = iota
	HangBefore                 // no answer; executed only if Release comes before the client leaves
	HangAfter                  // executed; no answer until Release
	ResetBefore                // the connection is reset
	ResetAfter                 // executed, then the connection is reset
	HTML502Before              // a proxy's page instead of an answer
	HTML502After               // executed, then a proxy's page
	TruncatedAfter             // executed; 200 with half of its body
	TooManyRequests            // 429 rate_limit, not executed
	LockTimeout                // 429 lock_timeout, not executed
	Unauthorized               // 401, as for a rolled key
	Forbidden                  // 403, as for a restricted key
	StoredError500Before       // 500 kept under the Idempotency-Key; not executed
	StoredError500After        // 500 kept under the Idempotency-Key; executed
	Unavailable503             // 503, not executed
	RejectAsync                // 200 for a meter event that is never aggregated
	InvalidRequest400          // 400, not executed
)

// SetFaults lets choose decide for every request, concurrently, how it fails;
// nil ends all faults.
func (s *Server) SetFaults(choose func(r *http.Request, form url.Values) Fault) {
	if choose == nil {
		s.faults.Store(nil)
		return
	}
	s.faults.Store(&choose)
}

func (s *Server) faultFor(r *http.Request) Fault {
	if choose := s.faults.Load(); choose != nil {
		return (*choose)(r, r.Form)
	}
	return NoFault
}

// Release lets the requests continue that hang now; later ones hang again.
func (s *Server) Release() {
	s.releaseMu.Lock()
	defer s.releaseMu.Unlock()
	close(s.release)
	s.release = make(chan struct{})
}

// hang waits for Release; it returns false when the client left first.
func (s *Server) hang(ctx context.Context) bool {
	s.releaseMu.Lock()
	release := s.release
	s.releaseMu.Unlock()
	if s.onHang != nil {
		s.onHang()
	}
	select {
	case <-release:
		return true
	case <-ctx.Done():
		return false
	}
}

// failBefore applies the faults that keep a request from its endpoint without
// an answer. goesOn is false when the request is over.
func (s *Server) failBefore(w http.ResponseWriter, req *request, f Fault) (goesOn bool) {
	switch f {
	case HangBefore:
		return s.hang(req.Context())
	case ResetBefore:
		reset(w)
		return false
	}
	return true
}

// failAfter applies the faults that lose the answer of an executed request. It
// returns false when the request is over.
func (s *Server) failAfter(w http.ResponseWriter, req *request, f Fault, a answer) (answer, bool) {
	switch f {
	case HangAfter:
		return a, s.hang(req.Context())
	case ResetAfter:
		reset(w)
		return a, false
	case HTML502After:
		return badGateway(), true
	case TruncatedAfter:
		a.head(w, s.id("req"))
		_, _ = w.Write(a.body[:len(a.body)/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler) // how net/http aborts an answer
	}
	return a, true
}

// refusal is the answer of a fault that has one.
func (f Fault) refusal() (a answer, refused bool) {
	switch f {
	case HTML502Before:
		return badGateway(), true
	case TooManyRequests:
		return rateLimited(), true
	case LockTimeout:
		return lockTimeout(), true
	case Unauthorized:
		return invalidKey("sk_test_rolled"), true
	case Forbidden:
		return notExecuted(http.StatusForbidden, apiError{Type: invalidRequest,
			Message: "The provided key does not have the required permissions for this endpoint."}), true
	case Unavailable503:
		return notExecuted(http.StatusServiceUnavailable, apiError{Type: "api_error",
			Message: "Stripe is temporarily unavailable. Please try again."}), true
	case InvalidRequest400:
		return invalid("", "", "Invalid request."), true
	}
	return answer{}, false
}

// reset closes the connection so that the client reads an error, not an end.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// Call is one request as it arrived. Status is 0 while it is in progress, and
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

// Calls returns the recorded requests in the order of their arrival.
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
