package reporter

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/stripe/stripe-go/v76"
)

// illegible is the code of an error whose body is not Stripe's: a proxy's page,
// or a cut answer.
const illegible = "illegible_answer"

// legible gives errors without Stripe's body one, because the library drops
// their status, and the status tells a gateway in trouble from an address that
// has no such page.
type legible struct{ http.RoundTripper }

// RoundTrip makes the call.
func (t legible) RoundTrip(r *http.Request) (*http.Response, error) {
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
		body = fmt.Appendf(nil, `{"error":{"type":"api_error","code":%q,"message":%q}}`, illegible, "HTTP "+response.Status)
	}
	response.Body, response.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return response, nil
}

// isAbsent reports whether what was asked for is not there: no such object, or
// no such page.
func isAbsent(err error) bool {
	var e *stripe.Error
	return errors.As(err, &e) && (e.HTTPStatusCode == http.StatusNotFound || e.HTTPStatusCode == http.StatusMethodNotAllowed)
}
