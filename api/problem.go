package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// Kind is a sort of problem: the status it is answered with, the last part of
// its type, its title.
type Kind struct {
	status int
	name   string
	title  string
}

// Every status that is not an answer.
var (
	InvalidRequest       = Kind{http.StatusBadRequest, "invalid-request", "Invalid request"}
	Unauthorized         = Kind{http.StatusUnauthorized, "unauthorized", "Unauthorized"}
	Forbidden            = Kind{http.StatusForbidden, "forbidden", "Forbidden"}
	SubscriptionInactive = Kind{http.StatusForbidden, "subscription-inactive", "Subscription inactive"}
	// TooSlow is no verdict on the bytes, of which not all have come: 408 tells
	// clients to send the same again (RFC 9110, 15.5.9).
	TooSlow              = Kind{http.StatusRequestTimeout, "unavailable", "Request timeout"}
	NotFound             = Kind{http.StatusNotFound, "not-found", "Not found"}
	NoSubscription       = Kind{http.StatusNotFound, "no-subscription", "No subscription"}
	TooLarge             = Kind{http.StatusRequestEntityTooLarge, "too-large", "Too large"}
	UnsupportedMediaType = Kind{http.StatusUnsupportedMediaType, "unsupported-media-type", "Unsupported media type"}
	RateLimited          = Kind{http.StatusTooManyRequests, "rate-limited", "Too many requests"}
	Internal             = Kind{http.StatusInternalServerError, "internal", "Internal error"}
	NoPlan               = Kind{http.StatusInternalServerError, "no-plan", "No plan"}
	Unavailable          = Kind{http.StatusServiceUnavailable, "unavailable", "Unavailable"}

	methodNotAllowed = Kind{http.StatusMethodNotAllowed, "invalid-request", "Method not allowed"}
)

// retryPause is when to ask again after an answer that was not possible: long
// enough for a dependency to come back, short enough for a dashboard.
const retryPause = 5 * time.Second

// Problem is an answer by RFC 9457, and an error. Detail is for the person who
// asked: what to do about it, and nothing about the inside.
type Problem struct {
	Type     string `json:"type" doc:"Which problem it is: /problems/ and its name." example:"/problems/invalid-request"`
	Title    string `json:"title" doc:"The same for every problem of the type." example:"Invalid request"`
	Status   int    `json:"status" doc:"The HTTP status." example:"400"`
	Detail   string `json:"detail" doc:"What is wrong with this request, and what to do about it."`
	Instance string `json:"instance" doc:"The path that was asked for." example:"/api/v1/usage"`

	header http.Header
}

// Refuse makes a problem.
func Refuse(k Kind, format string, args ...any) *Problem {
	p := &Problem{
		Type: "/problems/" + k.name, Title: k.title, Status: k.status,
		Detail: fmt.Sprintf(format, args...), header: http.Header{},
	}
	if k == Unavailable || k == TooSlow {
		p.RetryAfter(retryPause)
	}
	return p
}

// Error is the detail.
func (p *Problem) Error() string { return p.Detail }

// GetStatus, GetHeaders and ContentType are what huma asks of an error.
func (p *Problem) GetStatus() int { return p.Status }

// GetHeaders are the headers that belong to the problem.
func (p *Problem) GetHeaders() http.Header { return p.header }

// ContentType is that of RFC 9457.
func (p *Problem) ContentType(string) string { return problemType }

const problemType = "application/problem+json"

// RetryAfter asks the client to come again in whole seconds, at least one.
func (p *Problem) RetryAfter(wait time.Duration) {
	p.header.Set("Retry-After", strconv.FormatInt(wholeSeconds(wait), 10))
}

// wholeSeconds is a wait in seconds, at least one.
func wholeSeconds(wait time.Duration) int64 {
	return int64(max(1, (wait+time.Second-1)/time.Second))
}

// write answers with the problem.
func (p *Problem) write(w http.ResponseWriter) {
	// Marshalling strings and a number cannot fail.
	body, _ := json.Marshal(p)
	h := w.Header()
	for name, values := range p.header {
		h[name] = values
	}
	h.Set("Content-Type", problemType)
	w.WriteHeader(p.Status)
	_, _ = w.Write(body)
}

// challenge is a 401 (RFC 6750): why the token that was there is not good, or
// that there was none.
func challenge(reason *tokenError) *Problem {
	if reason == nil {
		p := Refuse(Unauthorized, `Send a token: "Authorization: Bearer <token>".`)
		p.header.Set("WWW-Authenticate", `Bearer realm="odometer"`)
		return p
	}
	p := Refuse(Unauthorized, "The token is not accepted: %s. Get a new one.", reason)
	p.header.Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="odometer", error="invalid_token", error_description="%s"`, reason))
	return p
}

// outOfScope is a 403 for a good token that does not allow this.
func outOfScope(scope string) *Problem {
	p := Refuse(Forbidden, "The token lacks the scope %s. Get one that has it.", scope)
	p.header.Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="odometer", error="insufficient_scope", scope="%s"`, scope))
	return p
}

func internalProblem() *Problem {
	return Refuse(Internal, "Something went wrong on our side. Try again later; if it stays, tell the operator the time of this request.")
}

// problemOf is the answer to a request that got none. What the inside said
// goes to the log alone.
func (a *API) problemOf(ctx context.Context, err error) *Problem {
	var known *Problem
	switch {
	case errors.As(err, &known):
		return known
	case ctx.Err() != nil:
		if v := visitOf(ctx); v != nil {
			v.hungUp = true
		}
		// Should somebody read it after all, it must not look like an answer.
		return Refuse(Unavailable, "The request was given up.")
	case Unreachable(err):
		a.Log.WarnContext(ctx, "the database did not answer", "err", err)
		return Refuse(Unavailable, "The answer cannot be had at the moment. Try again in a few seconds.")
	default:
		a.Log.ErrorContext(ctx, "a request could not be answered", "err", err)
		return internalProblem()
	}
}

// refuse answers a request with a problem.
func (a *API) refuse(w http.ResponseWriter, r *http.Request, p *Problem) {
	secure(w.Header())
	p.Instance = r.URL.Path
	p.write(w)
}

func init() {
	// Huma's own complaints, which are about input that does not fit.
	huma.NewErrorWithContext = func(ctx huma.Context, status int, text string, errs ...error) huma.StatusError {
		p := fromHuma(status, text, errs)
		if ctx != nil {
			u := ctx.URL()
			p.Instance = u.Path
		}
		return p
	}
	huma.NewError = func(status int, text string, errs ...error) huma.StatusError { return fromHuma(status, text, errs) }
	// No list of ours is ever null.
	huma.DefaultArrayNullable = false
}

func fromHuma(status int, text string, errs []error) *Problem {
	switch status {
	case http.StatusRequestEntityTooLarge:
		return Refuse(TooLarge, "The body is too large: %s.", text)
	case http.StatusUnsupportedMediaType:
		return Refuse(UnsupportedMediaType, "Send the body as application/json.")
	case http.StatusRequestTimeout:
		return Refuse(TooSlow, "The body did not arrive in time. Send the same again.")
	}
	if status >= http.StatusInternalServerError {
		return internalProblem()
	}
	var details []string
	for _, err := range errs {
		var d *huma.ErrorDetail
		if errors.As(err, &d) {
			details = append(details, complaint(d))
		} else if err != nil {
			details = append(details, err.Error())
		}
	}
	if len(details) == 0 {
		details = []string{text}
	}
	return Refuse(InvalidRequest, "%s.", strings.Join(details, "; "))
}

// shown is as much of a client's text as a detail repeats.
func shown(text string) string {
	const most = 60
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return text
}

// complaint is huma's detail as a sentence: which parameter, which value, what
// is allowed.
func complaint(d *huma.ErrorDetail) string {
	where := d.Location
	for _, place := range []string{"query.", "path.", "body."} {
		where = strings.TrimPrefix(where, place)
	}
	if d.Value == nil || d.Value == "" {
		return where + ": " + d.Message
	}
	return fmt.Sprintf("%s is %q: %s", where, shown(fmt.Sprint(d.Value)), d.Message)
}
