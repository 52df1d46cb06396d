package reporter

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v76"
)

// answering is what a server does with a call.
type answering func(w http.ResponseWriter, r *http.Request)

// says answers as Stripe does.
func answers(status int, body string) answering {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}
}

// refuses answers with an error object.
func refuses(status int, kind, code, message string) answering {
	return answers(status, fmt.Sprintf(`{"error": {"type": %q, "code": %q, "message": %q}}`, kind, code, message))
}

func truncated(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "1000")
	fmt.Fprint(w, `{"object": "billing.meter_event", "identi`)
	panic(http.ErrAbortHandler)
}

func resets(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	_ = conn.(*net.TCPConn).SetLinger(0)
	_ = conn.Close()
}

// hangs answers nothing until the client has left.
func hangs(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

const (
	requestError = "invalid_request_error"
	existsAlso   = "An event already exists with identifier odo_1."
	page502      = "<html><head><title>502 Bad Gateway</title></head></html>"
)

// Each row is an answer, and what it means at the first call and for an entry
// that was sent before.
var answerTable = []struct {
	name          string
	answer        answering
	first, before Outcome
	strikes       bool
}{
	{"200", answers(200, `{"object": "billing.meter_event"}`), OutcomeAccepted, OutcomeAccepted, false},
	{"400 already exists", refuses(400, requestError, "", existsAlso), OutcomeRejected, OutcomeAccepted, false},
	{"400 resource_already_exists", refuses(400, requestError, "resource_already_exists", "Exists."), OutcomeRejected, OutcomeAccepted, false},
	{"400 that only mentions it", refuses(400, requestError, "", "Bad: "+existsAlso), OutcomeRejected, OutcomeUnknown, false},
	{"400 no such customer", refuses(400, requestError, "resource_missing", "No such customer: 'cus_1'"), OutcomeRejected, OutcomeUnknown, false},
	{"402", refuses(402, "card_error", "card_declined", "Declined."), OutcomeRejected, OutcomeUnknown, false},
	{"404", refuses(404, requestError, "resource_missing", "No such thing."), OutcomeRejected, OutcomeUnknown, false},
	{"422", refuses(422, requestError, "", "Cannot."), OutcomeRejected, OutcomeUnknown, false},
	{"400 timestamp too old", refuses(400, requestError, "timestamp_too_far_in_past", "Too old."), OutcomeRejected, OutcomeUnknown, false},
	{"400 archived meter", refuses(400, requestError, "archived_meter", "Archived."), OutcomeConfiguration, OutcomeConfiguration, false},
	{"400 no meter", refuses(400, requestError, "no_meter", "No meter."), OutcomeConfiguration, OutcomeConfiguration, false},
	{"400 idempotency_error", refuses(400, "idempotency_error", "", "Other parameters."), OutcomeUnknown, OutcomeUnknown, false},
	{"401", refuses(401, requestError, "", "Invalid API Key provided."), OutcomeConfiguration, OutcomeConfiguration, false},
	{"403", refuses(403, requestError, "", "No permission."), OutcomeConfiguration, OutcomeConfiguration, false},
	{"409 key in use", refuses(409, "idempotency_error", "idempotency_key_in_use", "In use."), OutcomeUnknown, OutcomeUnknown, false},
	{"429 rate_limit", refuses(429, requestError, "rate_limit", "Slow."), OutcomeThrottled, OutcomeThrottled, false},
	{"429 lock_timeout", refuses(429, requestError, "lock_timeout", "Locked."), OutcomeThrottled, OutcomeThrottled, false},
	{"500", refuses(500, "api_error", "", "An unknown error occurred."), OutcomeUnknown, OutcomeUnknown, true},
	{"503", refuses(503, "api_error", "", "Unavailable."), OutcomeUnknown, OutcomeUnknown, true},
	{"500 that names a code", refuses(500, "api_error", "resource_already_exists", existsAlso), OutcomeUnknown, OutcomeUnknown, true},
	{"502 of a proxy", answers(502, page502), OutcomeUnknown, OutcomeUnknown, true},
	{"404 of a proxy", answers(404, page502), OutcomeUnknown, OutcomeUnknown, true},
	{"400 that is nobody's", answers(400, `{"error": "bad"}`), OutcomeUnknown, OutcomeUnknown, true},
	{"200 of a proxy", answers(200, page502), OutcomeUnknown, OutcomeUnknown, true},
	{"200 cut short", truncated, OutcomeUnknown, OutcomeUnknown, true},
	{"reset", resets, OutcomeUnknown, OutcomeUnknown, true},
	{"time-out", hangs, OutcomeUnknown, OutcomeUnknown, true},
}

func TestClassifyEachAnswer(t *testing.T) {
	t.Parallel()
	for _, row := range answerTable {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			err := callOf(t, row.answer)
			if got := Classify(err, false); got != row.first {
				t.Errorf("at the first call: %s, want %s: %v", got, row.first, err)
			}
			if got := Classify(err, true); got != row.before {
				t.Errorf("sent before: %s, want %s: %v", got, row.before, err)
			}
			if got := isStripeFailure(err); got != row.strikes {
				t.Errorf("counts against the breaker: %t, want %t: %v", got, row.strikes, err)
			}
			if err != nil && reason(err) == "" {
				t.Errorf("no reason is given for %v", err)
			}
		})
	}
}

// callOf makes one call that is answered by treat, and no other.
func callOf(t *testing.T, treat answering) error {
	t.Helper()
	calls := make(chan struct{}, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm() // so that a client that leaves is noticed
		calls <- struct{}{}
		treat(w, r)
	}))
	defer server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	err := NewStripe("sk_test_1", server.URL).send(ctx, &LedgerEntry{Sink: MeterEvents, Identifier: "odo_1"})
	if n := len(calls); n != 1 {
		t.Errorf("%d calls were made, want 1", n)
	}
	return err
}

func TestRefusedConnectionIsUnknown(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(nil)
	server.Close()
	err := NewStripe("sk_test_1", server.URL).send(t.Context(), &LedgerEntry{Sink: MeterEvents})
	if got := Classify(err, false); got != OutcomeUnknown || answered(err) {
		t.Errorf("%s, answered %t: %v", got, answered(err), err)
	}
}

// Whatever Stripe may answer, an entry that was sent before is never taken for
// lost by the answer to its repeat alone.
func TestRepeatedSendIsNeverRejected(t *testing.T) {
	t.Parallel()
	for status := 100; status < 600; status++ {
		for _, kind := range []stripe.ErrorType{stripe.ErrorTypeInvalidRequest, stripe.ErrorTypeIdempotency, stripe.ErrorTypeAPI, ""} {
			err := fmt.Errorf("call: %w", &stripe.Error{HTTPStatusCode: status, Type: kind})
			if got := Classify(err, true); got == OutcomeRejected || got == OutcomeAccepted {
				t.Errorf("status %d %s: %s", status, kind, got)
			}
			if got := Classify(err, false); got == OutcomeAccepted {
				t.Errorf("status %d %s at the first call: %s", status, kind, got)
			}
		}
	}
	if got := Classify(errors.New("anything"), false); got != OutcomeUnknown {
		t.Errorf("an error that is not Stripe's: %s", got)
	}
}

func TestReasonIsOneShortLine(t *testing.T) {
	t.Parallel()
	long := &stripe.Error{HTTPStatusCode: 400, Msg: "a\nb" + string(make([]byte, 1000)), Code: "c"}
	for err, want := range map[error]string{
		&stripe.Error{HTTPStatusCode: 503}:                            "Service Unavailable",
		&stripe.Error{HTTPStatusCode: 400, Msg: "No\n it", Code: "x"}: "No it (x)",
		errors.New("broken"):                                          "an answer that cannot be read: broken",
		context.DeadlineExceeded:                                      "no answer: context deadline exceeded",
	} {
		if got := reason(err); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := reason(long); len(got) > 310 {
		t.Errorf("%d bytes: %s", len(got), got)
	}
}
