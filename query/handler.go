package query

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
)

// databaseTimeout is how long an answer may take the database.
const databaseTimeout = 5 * time.Second

// asOfHeader carries as_of where there is no body to carry it.
const asOfHeader = "Odometer-As-Of"

// Options are what the handler needs.
type Options struct {
	Pool              *pgxpool.Pool
	Keys              *Keys
	RequestsPerMinute int // of one tenant, for GET /api/v1/usage; 0: no limit
	Log               *slog.Logger
	Registerer        prometheus.Registerer // nil: metrics are not shown
}

// server answers requests.
type server struct {
	pool    *pgxpool.Pool
	keys    *Keys
	limit   *limiter
	log     *slog.Logger
	metrics *metrics
}

// NewHandler serves GET /api/v1/usage and answers every other path with a
// problem document, so that it can be a program's outermost handler. It
// registers its metrics; a registerer takes them once.
func NewHandler(o Options) http.Handler { return newHandler(o, time.Now) }

func newHandler(o Options, now func() time.Time) http.Handler {
	s := &server{
		pool:    o.Pool,
		keys:    o.Keys,
		limit:   newLimiter(o.RequestsPerMinute, time.Minute, now),
		log:     o.Log,
		metrics: newMetrics(o.Registerer),
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+usageRoute, s.serve(usageRoute, s.usage)) // HEAD too
	mux.HandleFunc(usageRoute, s.serve(usageRoute, onlyGet))
	mux.HandleFunc("/", s.serve(otherRoute, unknownPath))
	return mux
}

// entry is what a request's log line says beside the obvious.
type entry struct {
	tenant  uuid.UUID // that was asked about, uuid.Nil when it never came to that
	subject string    // of the token
}

// serve writes what answer replies, and books the request.
func (s *server) serve(route string, answer func(*http.Request, *entry) reply) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		var seen entry
		out := answer(r, &seen)
		out.write(w)
		took := time.Since(begin)
		if out.hungUp {
			out.status = statusHungUp
		}
		s.metrics.observe(route, out.status, took)
		attrs := []slog.Attr{
			slog.String("method", r.Method),
			slog.String("route", route),
			slog.Int("status", out.status),
			slog.Duration("duration", took),
		}
		if seen.tenant != uuid.Nil {
			attrs = append(attrs, slog.String("tenant", seen.tenant.String()))
		}
		if seen.subject != "" {
			attrs = append(attrs, slog.String("subject", seen.subject))
		}
		s.log.LogAttrs(r.Context(), slog.LevelInfo, "request", attrs...)
	}
}

func (r *reply) write(w http.ResponseWriter) {
	h := w.Header()
	for name, values := range r.header {
		h[name] = values
	}
	h.Set("Cache-Control", "private, no-cache")
	h.Set("Vary", "Authorization")
	h.Set("X-Content-Type-Options", "nosniff")
	if r.status != http.StatusNotModified {
		h.Set("Content-Length", strconv.Itoa(len(r.body)))
	}
	w.WriteHeader(r.status)
	// Whoever hung up does not miss it.
	_, _ = w.Write(r.body)
}

func onlyGet(r *http.Request, _ *entry) reply {
	out := problem(r, methodNotAllowed, "Usage can only be read: use GET.")
	out.header.Set("Allow", "GET, HEAD")
	return out
}

func unknownPath(r *http.Request, _ *entry) reply {
	return problem(r, notFound, "There is nothing at this path. Usage is at "+usageRoute+".")
}

// usage answers GET /api/v1/usage.
func (s *server) usage(r *http.Request, seen *entry) reply {
	tenant, no := s.admit(r, seen)
	if no != nil {
		return *no
	}
	ctx, cancel := context.WithTimeout(r.Context(), databaseTimeout)
	defer cancel()
	a, err := Usage(ctx, s.pool, tenant)
	if err != nil {
		return s.failed(r, err)
	}
	tag, err := etag(a)
	if err != nil {
		return s.failed(r, err)
	}
	header := http.Header{"Etag": {tag}, asOfHeader: {a.AsOf.String()}}
	if matches(r.Header["If-None-Match"], tag) {
		return reply{status: http.StatusNotModified, header: header}
	}
	body, err := json.Marshal(a)
	if err != nil {
		return s.failed(r, err)
	}
	header.Set("Content-Type", "application/json")
	return reply{status: http.StatusOK, header: header, body: body}
}

// failed is the answer to a request that got none. What the inside said goes
// to the log alone.
func (s *server) failed(r *http.Request, err error) reply {
	var refusal *Refusal
	switch {
	case errors.As(err, &refusal):
		return refused(r, refusal)
	case r.Context().Err() != nil:
		// Should somebody read it after all, it must not look like an answer.
		out := problem(r, unavailable, "The request was given up.")
		out.hungUp = true
		return out
	case unreachable(err):
		s.log.WarnContext(r.Context(), "the database did not answer", "err", err)
		return problem(r, unavailable, "Usage cannot be read at the moment. Try again in a few seconds.")
	default:
		s.log.ErrorContext(r.Context(), "usage could not be read", "err", err)
		return problem(r, internal, "Something went wrong on our side. Try again later; if it stays, tell the operator the time of this request.")
	}
}
