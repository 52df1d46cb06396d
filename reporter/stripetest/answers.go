package stripetest

import (
	"encoding/json"
	"net/http"
	"strconv"
)

// apiVersion is the one that stripe-go v76 is pinned to.
const apiVersion = "2023-10-16"

// object is a resource as it goes over the wire.
type object = map[string]any

// answer is a status with its body. It is kept under the Idempotency-Key only
// when the endpoint began to execute.
type answer struct {
	status   int
	body     []byte
	html     bool
	began    bool
	replayed bool
	header   [2]string // one more, or none
}

// apiError is the body of a refusal.
type apiError struct {
	Type    string `json:"type"`
	Code    string `json:"code,omitempty"`
	Message string `json:"message"`
	Param   string `json:"param,omitempty"`
}

const invalidRequest = "invalid_request_error"

func ok(v any) answer {
	body, err := json.Marshal(v)
	if err != nil {
		panic("stripetest: " + err.Error())
	}
	return answer{status: http.StatusOK, body: body, began: true}
}

// refused is an answer of an endpoint that looked at its state and said no.
func refused(status int, e apiError) answer {
	a := ok(object{"error": e})
	a.status = status
	return a
}

// invalid is the answer to a parameter that cannot be right in any state. It
// comes before execution, so no Idempotency-Key keeps it.
func invalid(param, code, message string) answer {
	a := refused(http.StatusBadRequest, apiError{invalidRequest, code, message, param})
	a.began = false
	return a
}

func missing(param string) answer {
	return invalid(param, "parameter_missing", "Missing required param: "+param+".")
}

func noSuch(status int, kind, id, param string) answer {
	return refused(status, apiError{invalidRequest, "resource_missing", "No such " + kind + ": '" + id + "'", param})
}

// outside is an answer given by what stands before the endpoints.
func outside(status int, e apiError) answer {
	a := refused(status, e)
	a.began = false
	return a
}

func unrecognized(method, path string) answer {
	return outside(http.StatusNotFound, apiError{Type: invalidRequest, Message: "Unrecognized request URL (" + method + ": " + path +
		"). Please see https://stripe.com/docs or we can help at https://support.stripe.com/."})
}

func rateLimited() answer {
	a := outside(http.StatusTooManyRequests, apiError{Type: invalidRequest, Code: "rate_limit",
		Message: "Request rate limit exceeded. Learn more about rate limits here: https://stripe.com/docs/rate-limits."})
	a.header = [2]string{"Retry-After", "1"}
	return a
}

func lockTimeout() answer {
	return outside(http.StatusTooManyRequests, apiError{Type: invalidRequest, Code: "lock_timeout",
		Message: "This object cannot be accessed right now because another API request or Stripe process is currently accessing it. If you see this error intermittently, retry the request. If you see this error frequently and are making multiple concurrent requests to a single object, make your requests serially or at a lower rate. For more details, see https://stripe.com/docs/rate-limits#object-lock-timeouts."})
}

// internalError is an answer of an endpoint, so its key keeps it.
func internalError() answer {
	return refused(http.StatusInternalServerError, apiError{Type: "api_error",
		Message: "An unknown error occurred. If this persists, please contact us via https://support.stripe.com/."})
}

func badGateway() answer {
	return answer{status: http.StatusBadGateway, html: true,
		body: []byte("<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n")}
}

// head writes all but the body.
func (a answer) head(w http.ResponseWriter, requestID string) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	if a.html {
		h.Set("Content-Type", "text/html")
	} else {
		h.Set("Request-Id", requestID)
		h.Set("Stripe-Version", apiVersion)
	}
	if a.status == http.StatusBadRequest {
		h.Set("Stripe-Should-Retry", "false")
	}
	if a.replayed {
		h.Set("Idempotent-Replayed", "true")
	}
	if a.header[0] != "" {
		h.Set(a.header[0], a.header[1])
	}
	h.Set("Content-Length", strconv.Itoa(len(a.body)))
	w.WriteHeader(a.status)
}

func (a answer) writeTo(w http.ResponseWriter, requestID string) {
	a.head(w, requestID)
	_, _ = w.Write(a.body) // a client that went away does not read it
}
