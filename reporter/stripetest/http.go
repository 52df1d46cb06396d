package stripetest

import (
	"encoding/json"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// apiVersion is the one that stripe-go v76 is pinned to.
const apiVersion = "2023-10-16"

// object is a resource in its JSON form.
type object map[string]any

// answer is a status with its body. The Idempotency-Key stores it only when the
// endpoint began to execute. As an error it is a refusal.
type answer struct {
	status     int
	body       []byte
	html       bool
	began      bool
	replayed   bool
	retryAfter string // the header's value, or ""
}

func (a answer) Error() string { return string(a.body) }

// apiError is the body of a refusal.
type apiError struct {
	Type    string `json:"type"`
	Code    string `json:"code,omitempty"`
	Message string `json:"message"`
	Param   string `json:"param,omitempty"`
}

const invalidRequest = "invalid_request_error"

func encode(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic("stripetest: " + err.Error())
	}
	return text
}

// refused is a refusal by an endpoint that has read its state.
func refused(status int, e apiError) answer {
	return answer{status: status, body: encode(object{"error": e}), began: true}
}

// invalid is the answer to a parameter that is wrong in any state. It comes
// before execution, so no Idempotency-Key stores it.
func invalid(param, code, message string) answer {
	return notExecuted(http.StatusBadRequest, apiError{invalidRequest, code, message, param})
}

func missing(param string) answer {
	return invalid(param, "parameter_missing", "Missing required param: "+param+".")
}

func noSuch(status int, kind, id, param string) answer {
	return refused(status, apiError{invalidRequest, "resource_missing", "No such " + kind + ": '" + id + "'", param})
}

// notExecuted is an answer given before the endpoint.
func notExecuted(status int, e apiError) answer {
	a := refused(status, e)
	a.began = false
	return a
}

func unrecognized(method, path string) answer {
	return notExecuted(http.StatusNotFound, apiError{Type: invalidRequest, Message: "Unrecognized request URL (" + method + ": " + path +
		"). Please see https://stripe.com/docs or we can help at https://support.stripe.com/."})
}

// Answers that are always the same.
var (
	rateLimited = answer{status: http.StatusTooManyRequests, retryAfter: "1", body: encode(object{"error": apiError{Type: invalidRequest, Code: "rate_limit",
		Message: "Request rate limit exceeded. Learn more about rate limits here: https://stripe.com/docs/rate-limits."}})}
	lockTimeout = notExecuted(http.StatusTooManyRequests, apiError{Type: invalidRequest, Code: "lock_timeout",
		Message: "This object cannot be accessed right now because another API request or Stripe process is currently accessing it. If you see this error intermittently, retry the request. If you see this error frequently and are making multiple concurrent requests to a single object, make your requests serially or at a lower rate. For more details, see https://stripe.com/docs/rate-limits#object-lock-timeouts."})
	// internalError is an answer of an endpoint, so its key stores it.
	internalError = refused(http.StatusInternalServerError, apiError{Type: "api_error",
		Message: "An unknown error occurred. If this persists, please contact us via https://support.stripe.com/."})
	badGateway = answer{status: http.StatusBadGateway, html: true,
		body: []byte("<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n")}
	noKey = notExecuted(http.StatusUnauthorized, apiError{Type: invalidRequest,
		Message: "You did not provide an API key. You need to provide your API key in the Authorization header, using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY'). See https://stripe.com/docs/api#authentication for details, or we can help at https://support.stripe.com/."})
)

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
	if a.retryAfter != "" {
		h.Set("Retry-After", a.retryAfter)
	}
	h.Set("Content-Length", strconv.Itoa(len(a.body)))
	w.WriteHeader(a.status)
}

// request is one call of the API with its form, from the body or the query.
type request struct {
	*http.Request
	form        url.Values
	id          string // from the path
	rejectAsync bool   // received, but never to be aggregated
}

func (r *request) get(name string) string { return r.form.Get(name) }

// integer reads a whole number, which must be there.
func (r *request) integer(name string) (int64, error) {
	n, err := strconv.ParseInt(r.get(name), 10, 64)
	switch {
	case !r.form.Has(name):
		return 0, missing(name)
	case err != nil:
		return 0, invalid(name, "parameter_invalid_integer", "Invalid integer: "+r.get(name))
	}
	return n, nil
}

// oneOf refuses a parameter that is there and has neither of two values.
func (r *request) oneOf(name, a, b string) error {
	if v := r.get(name); v != "" && v != a && v != b {
		return invalid(name, "", "Invalid "+name+": must be one of "+a+" or "+b)
	}
	return nil
}

// expands reports whether a field was requested in full: in a list it is named
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

// exclusive names what only one request may use at a time: Stripe allows one
// concurrent meter event for a customer and a meter.
func (r *request) exclusive() string {
	if r.Method != http.MethodPost || r.URL.Path != meterEventsPath {
		return ""
	}
	return r.get(payloadCustomer) + " " + r.get("event_name")
}

// resource is what Stripe lists.
type resource interface{ key() string }

func (o object) key() string { return o["id"].(string) }

// register holds all resources of a kind, oldest first and by id.
type register[T resource] struct {
	kind string
	all  []T
	of   map[string]T
}

func newRegister[T resource](kind string) register[T] {
	return register[T]{kind: kind, of: map[string]T{}}
}

func (g *register[T]) add(v T) {
	g.all = append(g.all, v)
	g.of[v.key()] = v
}

// must is for exported calls, where an unknown id is a mistake in the test.
func (g *register[T]) must(id string) T {
	v, found := g.of[id]
	if !found {
		panic("stripetest: no such " + g.kind + ": " + id)
	}
	return v
}

// named is the resource that the parameter of its kind names, the zero value if
// it names none.
func (g *register[T]) named(req *request) (v T, err error) {
	id := req.get(g.kind)
	v, found := g.of[id]
	if id != "" && !found {
		err = noSuch(http.StatusBadRequest, g.kind, id, g.kind)
	}
	return v, err
}

// with answers by the resource whose id is in the path.
func (g *register[T]) with(req *request, param string, show func(T) (object, error)) (object, error) {
	v, found := g.of[req.id]
	if !found {
		return nil, noSuch(http.StatusNotFound, g.kind, req.id, param)
	}
	return show(v)
}

// list answers with a page of resources in their order: newest first in Stripe.
func list[T resource](req *request, inOrder iter.Seq2[int, T], matches func(T) bool, show func(T) object) (object, error) {
	limit, err := pageSize(req)
	if err != nil {
		return nil, err
	}
	after, data, more := req.get("starting_after"), []object{}, false
	for _, v := range inOrder {
		if after != "" {
			if v.key() == after {
				after = ""
			}
			continue
		}
		if !matches(v) {
			continue
		}
		if len(data) == limit {
			more = true
			break
		}
		data = append(data, show(v))
	}
	if after != "" {
		return nil, noSuch(http.StatusBadRequest, "object", after, "starting_after")
	}
	return pageOf(req.URL.Path, data, more), nil
}

// listRows answers with a page of rows that were made for the request.
func listRows(req *request, rows []object) (object, error) {
	return list(req, slices.All(rows), func(object) bool { return true }, func(row object) object { return row })
}

func pageOf(url string, data []object, more bool) object {
	return object{"object": "list", "url": url, "has_more": more, "data": data}
}

// defaultPageSize is also how many lines an invoice contains itself.
const defaultPageSize = 10

func pageSize(req *request) (int, error) {
	if req.get("ending_before") != "" {
		return 0, invalid("ending_before", "parameter_unknown", "Received unknown parameter: ending_before")
	}
	if req.get("limit") == "" {
		return defaultPageSize, nil
	}
	limit, err := req.integer("limit")
	if err == nil && (limit < 1 || limit > 100) {
		err = invalid("limit", "", "This value must be between 1 and 100.")
	}
	return int(limit), err
}
