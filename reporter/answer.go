package reporter

import (
	"errors"
	"net/http"
	"strings"

	"github.com/stripe/stripe-go/v76"
)

// Answer is what a call that tells Stripe something came to.
type Answer string

const (
	// Accepted: Stripe has it, once.
	Accepted Answer = "accepted"
	// Rejected: Stripe does not have it and will not take it as it is.
	Rejected Answer = "rejected"
	// Configuration: Stripe does not have it, and nothing else would get
	// through either until somebody changes a key or a meter.
	Configuration Answer = "configuration"
	// Throttled: Stripe does not have it; the same again, later.
	Throttled Answer = "throttled"
	// Unknown: Stripe may have it.
	Unknown Answer = "unknown"
)

// Answers are all of them, as metrics know them.
func Answers() []Answer { return []Answer{Accepted, Rejected, Configuration, Throttled, Unknown} }

// alreadyExists begins Stripe's refusal of an identifier that it has counted.
// No code goes with it reliably.
const alreadyExists = "An event already exists with identifier"

// Judge says what an answer means for the money. sentBefore tells that an
// earlier call with this identifier may have arrived.
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
func Judge(err error, sentBefore bool) Answer {
	if err == nil {
		return Accepted
	}
	var e *stripe.Error
	if !errors.As(err, &e) {
		return Unknown
	}
	switch {
	case e.HTTPStatusCode == http.StatusUnauthorized, e.HTTPStatusCode == http.StatusForbidden, isMeterGone(e):
		return Configuration
	case e.HTTPStatusCode == http.StatusTooManyRequests:
		return Throttled
	case e.Code == illegible, e.HTTPStatusCode == http.StatusConflict, e.HTTPStatusCode >= 500, e.HTTPStatusCode < 400, e.Type == stripe.ErrorTypeIdempotency:
		return Unknown
	case strings.HasPrefix(e.Msg, alreadyExists) || e.Code == "resource_already_exists":
		if sentBefore {
			return Accepted
		}
		return Rejected
	case sentBefore:
		return Unknown
	default:
		return Rejected
	}
}

func isMeterGone(e *stripe.Error) bool {
	return e.Code == "archived_meter" || e.Code == "no_meter"
}

// strikes reports whether an answer says that Stripe itself is in trouble, and
// so counts against the breaker. Refusals prove that it is up.
func strikes(err error) bool {
	if err == nil {
		return false
	}
	var e *stripe.Error
	return !errors.As(err, &e) || e.HTTPStatusCode >= 500 || e.Code == illegible
}

// reason is an answer in one line, for the ledger and for people.
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
