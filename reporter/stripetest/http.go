package stripetest

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

// apiVersion is the one that stripe-go v76 is pinned to.
const apiVersion = "2023-10-16"

// object is a resource in its JSON form.
type object = map[string]any

// answer is a status with its body. The Idempotency-Key stores it only when the
// endpoint began to execute.
type answer struct {
	status   int
	body     []byte
	html     bool
	began    bool
	replayed bool
	header   [2]string // one more header, or none
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

// refused is a refusal by an endpoint that has read its state.
func refused(status int, e apiError) answer {
	a := ok(object{"error": e})
	a.status = status
	return a
}

// invalid is the answer to a parameter that is wrong in any state. It comes
// before execution, so no Idempotency-Key stores it.
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

func rateLimited() answer {
	a := notExecuted(http.StatusTooManyRequests, apiError{Type: invalidRequest, Code: "rate_limit",
		Message: "Request rate limit exceeded. Learn more about rate limits here: https://stripe.com/docs/rate-limits."})
	a.header = [2]string{"Retry-After", "1"}
	return a
}

func lockTimeout() answer {
	return notExecuted(http.StatusTooManyRequests, apiError{Type: invalidRequest, Code: "lock_timeout",
		Message: "This object cannot be accessed right now because another API request or Stripe process is currently accessing it. If you see this error intermittently, retry the request. If you see this error frequently and are making multiple concurrent requests to a single object, make your requests serially or at a lower rate. For more details, see https://stripe.com/docs/rate-limits#object-lock-timeouts."})
}

// internalError is an answer of an endpoint, so its key stores it.
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
	_, _ = w.Write(a.body) // the client may have gone
}

// request is one call of the API with its form, from the body or the query.
type request struct {
	*http.Request
	form        url.Values
	id          string // from the path
	rejectAsync bool   // received, but never to be aggregated
}

func (r *request) get(name string) string { return r.form.Get(name) }

// integer reads a whole number; ok is false when it is missing or invalid.
func (r *request) integer(name string) (n int64, ok bool) {
	n, err := strconv.ParseInt(r.get(name), 10, 64)
	return n, err == nil
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

// resource is what Stripe lists: it has an id, and an index in the order in
// which resources of its kind were created.
type resource interface {
	key() string
	index() int
}

// register holds all resources of a kind, oldest first.
type register[T resource] struct {
	all []T
	of  map[string]T
}

func (g *register[T]) add(v T) {
	if g.of == nil {
		g.of = map[string]T{}
	}
	g.all = append(g.all, v)
	g.of[v.key()] = v
}

func (g *register[T]) get(id string) (v T, ok bool) {
	v, ok = g.of[id]
	return v, ok
}

// withResource answers with the resource whose id is in the path.
func withResource[T resource](s *Server, req *request, known *register[T], kind, param string, show func(v T, now time.Time) answer) answer {
	now := s.lockNow()
	defer s.mu.Unlock()
	v, found := known.get(req.id)
	if !found {
		return noSuch(http.StatusNotFound, kind, req.id, param)
	}
	return show(v, now)
}

// list answers with a page of resources, newest first as in Stripe. among are
// the candidates, oldest first.
func list[T resource](req *request, known *register[T], among []T, matches func(T) bool, show func(T) object) answer {
	limit, bad, valid := pageSize(req)
	if !valid {
		return bad
	}
	end := len(among)
	if after := req.get("starting_after"); after != "" {
		v, found := known.get(after)
		if !found {
			return noSuch(400, "object", after, "starting_after")
		}
		end = sort.Search(len(among), func(i int) bool { return among[i].index() >= v.index() })
	}
	data, more := []object{}, false
	for i := end - 1; i >= 0 && !more; i-- {
		switch {
		case !matches(among[i]):
		case len(data) == limit:
			more = true
		default:
			data = append(data, show(among[i]))
		}
	}
	return ok(pageOf(req.URL.Path, data, more))
}

// listRows answers with a page of rows that were made for the request, in their
// order.
func listRows(req *request, rows []object) answer {
	limit, bad, valid := pageSize(req)
	if !valid {
		return bad
	}
	if after := req.get("starting_after"); after != "" {
		i := slices.IndexFunc(rows, func(row object) bool { return row["id"] == after })
		if i < 0 {
			return noSuch(400, "object", after, "starting_after")
		}
		rows = rows[i+1:]
	}
	return ok(pageOf(req.URL.Path, rows[:min(limit, len(rows))], len(rows) > limit))
}

func pageOf(url string, data []object, more bool) object {
	return object{"object": "list", "url": url, "has_more": more, "data": data}
}

// defaultPageSize is also how many lines an invoice contains itself.
const defaultPageSize = 10

func pageSize(req *request) (limit int, bad answer, valid bool) {
	if req.get("ending_before") != "" {
		return 0, invalid("ending_before", "parameter_unknown", "Received unknown parameter: ending_before"), false
	}
	text := req.get("limit")
	if text == "" {
		return defaultPageSize, answer{}, true
	}
	limit, err := strconv.Atoi(text)
	if err != nil {
		return 0, invalid("limit", "parameter_invalid_integer", "Invalid integer: "+text), false
	}
	if limit < 1 || limit > 100 {
		return 0, invalid("limit", "", "This value must be between 1 and 100."), false
	}
	return limit, answer{}, true
}
