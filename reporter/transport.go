package reporter

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/stripe/stripe-go/v76"
)

// Outcome is what a call that sends usage means for the money.
type Outcome string

const (
	// OutcomeAccepted: Stripe has it, once.
	OutcomeAccepted Outcome = "accepted"
	// OutcomeRejected: Stripe does not have it and will not take it as it is.
	OutcomeRejected Outcome = "rejected"
	// OutcomeConfiguration: Stripe does not have it, and no other call would
	// succeed until somebody changes a key or a meter.
	OutcomeConfiguration Outcome = "configuration"
	// OutcomeThrottled: Stripe does not have it; send the same again, later.
	OutcomeThrottled Outcome = "throttled"
	// OutcomeUnknown: Stripe may have it.
	OutcomeUnknown Outcome = "unknown"
)

// Outcomes lists all outcomes, for the labels of metrics.
func Outcomes() []Outcome {
	return []Outcome{OutcomeAccepted, OutcomeRejected, OutcomeConfiguration, OutcomeThrottled, OutcomeUnknown}
}

// alreadyExists starts Stripe's refusal of an identifier that it has counted.
// No code comes with it reliably.
const alreadyExists = "An event already exists with identifier"

// Classify says what the error of a call means for the money. sentBefore says that
// an earlier call with this identifier may have arrived.
//
//	answer                                         first call     sent before
//	2xx                                            accepted       accepted
//	400 "An event already exists with identifier"  rejected (1)   accepted
//	400, 402, 404, 422: anything else              rejected       unknown (2)
//	400 with a code of an archived or no meter     configuration  configuration
//	400 idempotency_error                          unknown        unknown
//	401, 403                                       configuration  configuration
//	409                                            unknown        unknown
//	429, also lock_timeout                         throttled      throttled
//	5xx                                            unknown        unknown
//	any other that is not Stripe's: a proxy's page unknown        unknown
//	no answer: time-out, reset, refused connection unknown        unknown
//
// (1) Stripe has an identifier that we never sent: somebody else's.
// (2) The refusal is of this call; the earlier one may have been counted.
func Classify(err error, sentBefore bool) Outcome {
	if err == nil {
		return OutcomeAccepted
	}
	var e *stripe.Error
	if !errors.As(err, &e) {
		return OutcomeUnknown
	}
	switch {
	case e.HTTPStatusCode == http.StatusUnauthorized, e.HTTPStatusCode == http.StatusForbidden, isMeterMissing(e):
		return OutcomeConfiguration
	case e.HTTPStatusCode == http.StatusTooManyRequests:
		return OutcomeThrottled
	case e.Code == unreadableAnswer, e.HTTPStatusCode == http.StatusConflict, e.HTTPStatusCode >= 500, e.HTTPStatusCode < 400, e.Type == stripe.ErrorTypeIdempotency:
		return OutcomeUnknown
	case strings.HasPrefix(e.Msg, alreadyExists) || e.Code == "resource_already_exists":
		if sentBefore {
			return OutcomeAccepted
		}
		return OutcomeRejected
	case sentBefore:
		return OutcomeUnknown
	default:
		return OutcomeRejected
	}
}

func isMeterMissing(e *stripe.Error) bool {
	return e.Code == "archived_meter" || e.Code == "no_meter"
}

// isStripeFailure reports whether an error says that Stripe itself is in
// trouble, so that it counts against the breaker. A refusal proves that Stripe
// is up.
func isStripeFailure(err error) bool {
	if err == nil {
		return false
	}
	var e *stripe.Error
	return !errors.As(err, &e) || e.HTTPStatusCode >= 500 || e.Code == unreadableAnswer
}

// reason is an error in one line, for the ledger and for people.
func reason(err error) string {
	if err == nil {
		return ""
	}
	var e *stripe.Error
	if errors.As(err, &e) {
		text := e.Msg
		if text == "" {
			text = http.StatusText(e.HTTPStatusCode)
		}
		if e.Code != "" {
			text += " (" + string(e.Code) + ")"
		}
		return oneLine(text)
	}
	if !answered(err) {
		return "no answer: " + oneLine(err.Error())
	}
	return "an answer that cannot be read: " + oneLine(err.Error())
}

func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 300 {
		s = s[:300] + "…"
	}
	return s
}

// singleAttemptTransport keeps net/http from repeating a POST on its own. Where
// a reused connection breaks, net/http silently sends a request again that
// carries an Idempotency-Key. We would see the answer of the second call alone:
// a 429 to it says nothing about the first, which Stripe may have counted.
type singleAttemptTransport struct{ http.RoundTripper }

// RoundTrip makes the call once.
func (t singleAttemptTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil && r.GetBody != nil {
		single := *r
		single.GetBody = nil // without it net/http cannot send a body again
		r = &single
	}
	return t.RoundTripper.RoundTrip(r)
}

// unreadableAnswer is the code of an error whose body is not Stripe's: a
// proxy's page, or a truncated answer.
const unreadableAnswer = "illegible_answer"

// stripeErrorTransport gives errors without Stripe's body such a body.
// Otherwise the library drops their status, which tells a failing gateway from
// an address that does not exist.
type stripeErrorTransport struct{ http.RoundTripper }

// RoundTrip makes the call.
func (t stripeErrorTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := t.RoundTripper.RoundTrip(r)
	if err != nil || response.StatusCode < 400 {
		return response, err
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	_ = response.Body.Close()
	if err != nil {
		return nil, fmt.Errorf("read the error with status %d: %w", response.StatusCode, err)
	}
	var stripes struct {
		Error *struct {
			Type string `json:"type"`
		} `json:"error"`
	}
	if json.Unmarshal(body, &stripes) != nil || stripes.Error == nil || stripes.Error.Type == "" {
		body = fmt.Appendf(nil, `{"error":{"type":"api_error","code":%q,"message":%q}}`, unreadableAnswer, "HTTP "+response.Status)
	}
	response.Body, response.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return response, nil
}

// statusOf is the status of Stripe's refusal, 0 for any other error.
func statusOf(err error) int {
	var e *stripe.Error
	if errors.As(err, &e) {
		return e.HTTPStatusCode
	}
	return 0
}

// isAbsent reports whether an object, or a page of the API, does not exist.
func isAbsent(err error) bool {
	status := statusOf(err)
	return status == http.StatusNotFound || status == http.StatusMethodNotAllowed
}
