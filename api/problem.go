package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Kind is a kind of problem: its status, the last part of its type, its title.
type Kind struct {
	status int
	name   string
	title  string
}

// Every error that the API answers with.
var (
	InvalidRequest       = Kind{http.StatusBadRequest, "invalid-request", "Invalid request"}
	Unauthorized         = Kind{http.StatusUnauthorized, "unauthorized", "Unauthorized"}
	Forbidden            = Kind{http.StatusForbidden, "forbidden", "Forbidden"}
	SubscriptionInactive = Kind{http.StatusForbidden, "subscription-inactive", "Subscription inactive"}
	// TooSlow is a 408, so that clients send the same again (RFC 9110, 15.5.9).
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

// retryPause is the Retry-After of a 503: long enough for a dependency to come
// back, short enough for a dashboard.
const retryPause = 5 * time.Second

// Problem is an answer by RFC 9457, and an error. Detail is for the person who
// sent the request: what to do about it, and nothing internal.
type Problem struct {
	Type     string `json:"type" doc:"Which problem it is: /problems/ and its name." example:"/problems/invalid-request"`
	Title    string `json:"title" doc:"The same for every problem of the type." example:"Invalid request"`
	Status   int    `json:"status" doc:"The HTTP status." example:"400"`
	Detail   string `json:"detail" doc:"What is wrong with this request, and what to do about it."`
	Instance string `json:"instance" doc:"The path that was asked for." example:"/api/v1/usage"`

	header http.Header
}

// NewProblem makes a problem with a formatted detail.
func NewProblem(k Kind, format string, args ...any) *Problem {
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
	body, _ := JSON(p)
	h := w.Header()
	for name, values := range p.header {
		h[name] = values
	}
	h.Set("Content-Type", problemType)
	w.WriteHeader(p.Status)
	_, _ = w.Write(body)
}

// challenge is a 401 (RFC 6750): the reason why the token is not valid, or nil
// when there was none.
func challenge(reason *tokenError) *Problem {
	if reason == nil {
		p := NewProblem(Unauthorized, `Send a token: "Authorization: Bearer <token>".`)
		p.header.Set("WWW-Authenticate", `Bearer realm="odometer"`)
		return p
	}
	p := NewProblem(Unauthorized, "The token is not accepted: %s. Get a new one.", reason)
	p.header.Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="odometer", error="invalid_token", error_description="%s"`, reason))
	return p
}

// scopeMissing is a 403 for a valid token without the scope.
func scopeMissing(scope string) *Problem {
	p := NewProblem(Forbidden, "The token lacks the scope %s. Get one that has it.", scope)
	p.header.Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="odometer", error="insufficient_scope", scope="%s"`, scope))
	return p
}

func internalProblem() *Problem {
	return NewProblem(Internal, "Something went wrong on our side. Try again later; if it stays, tell the operator the time of this request.")
}

func databaseUnavailable() *Problem {
	return NewProblem(Unavailable, "The answer cannot be had at the moment. Try again in a few seconds.")
}

// problemOf is the problem for an error. An internal error goes to the log alone.
func (a *API) problemOf(ctx context.Context, err error) *Problem {
	var known *Problem
	switch {
	case errors.As(err, &known):
		return known
	case ctx.Err() != nil:
		if state := stateOf(ctx); state != nil {
			state.clientGone = true
		}
		return NewProblem(Unavailable, "The request was given up.")
	case DatabaseUnavailable(err):
		a.Log.WarnContext(ctx, "request failed", "reason", "the database is not available", "err", err)
		return databaseUnavailable()
	default:
		a.Log.ErrorContext(ctx, "request failed", "reason", "internal error", "err", err)
		return internalProblem()
	}
}

// refuse answers a request with a problem.
func (a *API) refuse(w http.ResponseWriter, r *http.Request, p *Problem) {
	setSecurityHeaders(w.Header())
	p.Instance = r.URL.EscapedPath()
	p.write(w)
}

// DatabaseUnavailable reports whether an error means that the database is down,
// shutting down or too busy, rather than that the statement was wrong.
func DatabaseUnavailable(err error) bool {
	var answered *pgconn.PgError
	if errors.As(err, &answered) {
		return outage(answered.Code)
	}
	var connecting *pgconn.ConnectError
	var network net.Error
	return errors.As(err, &connecting) || errors.As(err, &network) || pgconn.SafeToRetry(err) ||
		errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}

// outage reports whether a SQLSTATE is an outage: connection exceptions,
// insufficient resources, an operator's intervention (a shutdown, a cancelled
// statement), and a database that does not exist or rejects our login, which
// only a connection attempt gets.
func outage(code string) bool {
	switch code[:min(2, len(code))] {
	case "08", "53", "57":
		return true
	}
	return code == "3D000" || code == "28P01" || code == "28000"
}
