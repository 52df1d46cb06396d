package stripetest

import (
	"context"
	"net"
	"net/http"
	"net/url"
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
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.release)
	s.release = make(chan struct{})
}

// hang waits for Release; it returns false when the client left first.
func (s *Server) hang(ctx context.Context) bool {
	s.mu.Lock()
	release := s.release
	s.mu.Unlock()
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

// refusals are the answers of the faults that answer instead of the endpoint.
var refusals = map[Fault]answer{
	HTML502Before:     badGateway,
	TooManyRequests:   rateLimited,
	LockTimeout:       lockTimeout,
	Unauthorized:      invalidKey("sk_test_rolled"),
	InvalidRequest400: invalid("", "", "Invalid request."),
	Forbidden: notExecuted(http.StatusForbidden, apiError{Type: invalidRequest,
		Message: "The provided key does not have the required permissions for this endpoint."}),
	Unavailable503: notExecuted(http.StatusServiceUnavailable, apiError{Type: "api_error",
		Message: "Stripe is temporarily unavailable. Please try again."}),
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

// RecordCalls turns the record of requests on or off. It is off at first, since
// it grows with every request.
func (s *Server) RecordCalls(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recordCalls = on
}

// Calls returns the recorded requests in the order of their arrival.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	copied := make([]Call, len(s.calls))
	for i, c := range s.calls {
		copied[i] = *c
	}
	return copied
}

// MaxInFlight is the most requests that were in progress at once.
func (s *Server) MaxInFlight() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mostInFlight
}

// begin counts a request, and records it where that is wanted.
func (s *Server) begin(req *request) *Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inFlight++
	s.mostInFlight = max(s.mostInFlight, s.inFlight)
	call := &Call{Method: req.Method, Path: req.URL.Path, Form: req.form,
		IdempotencyKey: req.Header.Get("Idempotency-Key"), At: s.options.Now()}
	if s.recordCalls {
		s.calls = append(s.calls, call)
	}
	return call
}

func (s *Server) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inFlight--
}
