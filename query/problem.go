package query

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// kind is a sort of problem: the status it is answered with, the last part of
// its type, its title.
type kind struct {
	status int
	name   string
	title  string
}

// Every status that is not an answer.
var (
	invalidRequest       = kind{http.StatusBadRequest, "invalid-request", "Invalid request"}
	unauthorized         = kind{http.StatusUnauthorized, "unauthorized", "Unauthorized"}
	forbidden            = kind{http.StatusForbidden, "forbidden", "Forbidden"}
	subscriptionInactive = kind{http.StatusForbidden, "subscription-inactive", "Subscription inactive"}
	notFound             = kind{http.StatusNotFound, "not-found", "Not found"}
	noSubscription       = kind{http.StatusNotFound, "no-subscription", "No subscription"}
	methodNotAllowed     = kind{http.StatusMethodNotAllowed, "invalid-request", "Method not allowed"}
	rateLimited          = kind{http.StatusTooManyRequests, "rate-limited", "Too many requests"}
	internal             = kind{http.StatusInternalServerError, "internal", "Internal error"}
	noPlan               = kind{http.StatusInternalServerError, "no-plan", "No plan"}
	unavailable          = kind{http.StatusServiceUnavailable, "unavailable", "Unavailable"}
)

// refusals says what kind of problem each cause of a Refusal is.
var refusals = []struct {
	cause error
	kind  kind
}{
	{ErrNoSubscription, noSubscription},
	{ErrInactive, subscriptionInactive},
	{ErrNotBegun, noSubscription},
	{ErrNoPlan, noPlan},
	{ErrNotRead, unavailable},
}

// retryPause is when to ask again after an answer that was not possible: long
// enough for a dependency to come back, short enough for a dashboard.
const retryPause = 5 * time.Second

// reply is everything that a request is answered with.
type reply struct {
	status int
	header http.Header
	body   []byte
	hungUp bool // nobody waits for it any more
}

// problem is a reply by RFC 9457. detail is for the person who asked: what to
// do about it, and nothing about the inside.
func problem(r *http.Request, k kind, detail string) reply {
	// Marshalling strings and a number cannot fail.
	body, _ := json.Marshal(struct {
		Type     string `json:"type"`
		Title    string `json:"title"`
		Status   int    `json:"status"`
		Detail   string `json:"detail"`
		Instance string `json:"instance"`
	}{"/problems/" + k.name, k.title, k.status, detail, r.URL.Path})
	out := reply{
		status: k.status,
		header: http.Header{"Content-Type": {"application/problem+json"}},
		body:   body,
	}
	if k == unavailable {
		out.retryAfter(retryPause)
	}
	return out
}

// retryAfter asks the client to come again in whole seconds, at least one.
func (r *reply) retryAfter(wait time.Duration) {
	seconds := max(1, (wait+time.Second-1)/time.Second)
	r.header.Set("Retry-After", strconv.FormatInt(int64(seconds), 10))
}

// challenge is a 401 (RFC 6750): why the token that was there is not good, or
// that there was none.
func challenge(r *http.Request, reason *tokenError) reply {
	if reason == nil {
		out := problem(r, unauthorized, `Send a token: "Authorization: Bearer <token>".`)
		out.header.Set("WWW-Authenticate", `Bearer realm="odometer"`)
		return out
	}
	out := problem(r, unauthorized, fmt.Sprintf("The token is not accepted: %s. Get a new one.", reason))
	out.header.Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="odometer", error="invalid_token", error_description="%s"`, reason))
	return out
}

// outOfScope is a 403 for a good token that does not allow this.
func outOfScope(r *http.Request, scope string) reply {
	out := problem(r, forbidden, fmt.Sprintf("The token lacks the scope %s. Get one that has it.", scope))
	out.header.Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="odometer", error="insufficient_scope", scope="%s"`, scope))
	return out
}

// refused is the problem that a Refusal is.
func refused(r *http.Request, refusal *Refusal) reply {
	for _, known := range refusals {
		if errors.Is(refusal, known.cause) {
			return problem(r, known.kind, refusal.Error())
		}
	}
	return problem(r, internal, refusal.Error())
}
