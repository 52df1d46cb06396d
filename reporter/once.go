package reporter

import "net/http"

// once keeps net/http from repeating a call that tells something. It does so
// unseen where a connection that was used before breaks, for the header
// Idempotency-Key makes it take a POST for one that may be repeated. The answer
// would be the second call's: a 429 to it says nothing of the first, which
// Stripe may have counted.
type once struct{ http.RoundTripper }

// RoundTrip makes the call, once.
func (t once) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil && r.GetBody != nil {
		single := *r
		single.GetBody = nil // without which a body that was begun cannot be sent again
		r = &single
	}
	return t.RoundTripper.RoundTrip(r)
}
