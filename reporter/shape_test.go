package reporter

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stripe/stripe-mock/embedded"
	"github.com/stripe/stripe-mock/server"
)

// TestRequestsHaveTheShapeThatStripeDocuments makes passes for 200 customers
// against stripe-mock, which checks every request by Stripe's own OpenAPI
// document. It keeps no state, so nothing is learned from its answers.
func TestRequestsHaveTheShapeThatStripeDocuments(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	mock := newShapeChecker(t)
	w.url = mock.URL
	r := w.reporter(MeterEvents)
	for i := range 200 {
		w.month(fmt.Sprint("s", i)).use("inbox", 600)
	}
	result, err := r.Pass(t.Context(), Scope{ByHand: true})
	w.must(err)
	w.expect(result, 200, 0)

	w.pass(2 * time.Hour)
	if _, err := r.Verify(t.Context(), true); err != nil {
		t.Error(err)
	}
	w.set(time.Date(2026, 12, 1, 1, 0, 0, 0, time.UTC))
	w.roll()
	if _, err := r.Pass(t.Context(), Scope{ByHand: true}); err != nil {
		t.Error(err)
	}
	mock.expectSeen(t, "GET /v1/account", "GET /v1/billing/meters", "POST /v1/billing/meter_events", "event_summaries", "GET /v1/invoices")
}

var eventName = regexp.MustCompile(`"event_name": ?"[^"]*"`)

// shapeChecker is stripe-mock, and what it was asked and did not accept.
type shapeChecker struct {
	*httptest.Server
	mu   sync.Mutex
	seen map[string]bool
}

func newShapeChecker(t *testing.T) *shapeChecker {
	t.Helper()
	spec, err := server.LoadSpec(embedded.OpenAPISpec, "")
	if err != nil {
		t.Fatal(err)
	}
	fixtures, err := server.LoadFixtures(embedded.OpenAPIFixtures, "")
	if err != nil {
		t.Fatal(err)
	}
	stub, err := server.NewStubServer(fixtures, spec, false, false)
	if err != nil {
		t.Fatal(err)
	}
	c := &shapeChecker{seen: map[string]bool{}}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := httptest.NewRecorder()
		stub.HandleRequest(answer, r)
		c.mu.Lock()
		c.seen[r.Method+" "+r.URL.Path] = true
		c.mu.Unlock()
		if answer.Code != http.StatusOK {
			t.Errorf("%s %s is not accepted: %d %s", r.Method, r.URL, answer.Code, answer.Body)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(answer.Code)
		// The one meter of the fixtures stands for the one that is asked about.
		_, _ = w.Write(eventName.ReplaceAll(answer.Body.Bytes(), []byte(`"event_name":"inbox_overage"`)))
	}))
	t.Cleanup(c.Close)
	return c
}

func (c *shapeChecker) expectSeen(t *testing.T, wants ...string) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, want := range wants {
		found := false
		for call := range c.seen {
			found = found || strings.Contains(call, want)
		}
		if !found {
			t.Errorf("no %s was made: %v", want, c.seen)
		}
	}
}
