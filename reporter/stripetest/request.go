package stripetest

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// request is one call of the API with its form, wherever that was sent.
type request struct {
	*http.Request
	form      url.Values
	id        string // from the path
	discarded bool   // received, but never to be aggregated
}

func (r *request) get(name string) string { return r.form.Get(name) }

// integer reads a whole number; ok is false when it is missing or none.
func (r *request) integer(name string) (n int64, ok bool) {
	n, err := strconv.ParseInt(r.get(name), 10, 64)
	return n, err == nil
}

// expands tells whether a field was asked for in full: in a list it is named
// as a field of its data.
func (r *request) expands(field string) bool {
	for name, values := range r.form {
		if !strings.HasPrefix(name, "expand[") {
			continue
		}
		for _, v := range values {
			if strings.TrimPrefix(v, "data.") == field {
				return true
			}
		}
	}
	return false
}

// idempotencyKey is empty for reads: Stripe ignores the header there.
func (r *request) idempotencyKey() string {
	if r.Method != http.MethodPost {
		return ""
	}
	return r.Header.Get("Idempotency-Key")
}

// exclusive names what only one request may touch at a time: Stripe allows one
// concurrent meter event for a customer and a meter.
func (r *request) exclusive() string {
	if r.Method != http.MethodPost || r.URL.Path != meterEventsPath {
		return ""
	}
	return r.get(payloadCustomer) + " " + r.get("event_name")
}
