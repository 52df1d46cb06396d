// Package api is the entrance of the HTTP API: every request to it, whatever
// package answers, passes the same checks in the same order. A package registers
// an operation ([Register]) and receives the caller, already authorized.
//
// What it guarantees:
//
//   - No operation runs without a token that is valid now (401), allows it
//     (403), and has requests left (429), checked in this order. The operator's
//     settings decide which algorithm checks a token, never the token.
//   - A token of role tenant acts for its own tenant, an admin's for the one
//     that it names. The operation receives that tenant and no other.
//   - Nothing in a query is ignored: a parameter that the operation does not
//     know, or that is given twice, is a 400.
//   - Every error is a problem document (RFC 9457) of a known type, whose detail
//     a person can act on and which reveals nothing internal.
//   - Every request is one line in the log with tenant and token subject, and
//     one count in usage_api_requests_total. No query string, no header, no
//     token is logged.
//   - What is registered is documented: the OpenAPI document is made of the
//     same types that are read and written, with an example of each answer.
//
// In the order of a request's way:
//
//	api.go               the handler around everything: panics, unknown paths
//	record.go            the log line and the metrics of a request
//	cors.go              which other origins may read answers
//	route.go             operations, and the adapter that puts checks before them
//	authorize.go         who asks, and for which tenant
//	tokens.go            what makes a token valid; jwks.go where its keys come from
//	limits.go            requests per caller and minute, and how many run at once
//	problem.go           every error status, in one table; errors of the database
//	validation_errors.go huma's errors about input, as sentences
//	json.go              how bodies and cursors are written and read
//	response.go          answers are complete before their first byte is sent
//	openapi.go           the document, and examples of its problems
package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"path"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
)

// Options configure an API.
type Options struct {
	Keys       *Keys    // decide which tokens are valid
	Origins    []string // origins of pages that may read answers, as "https://app.example"; see CheckOrigin
	Log        *slog.Logger
	Registerer prometheus.Registerer // nil: metrics are not registered
	Now        func() time.Time      // nil: time.Now
}

// API is the checks with the operations behind them.
type API struct {
	Options
	mux     *http.ServeMux
	huma    huma.API
	metrics *metrics
	routes  map[string]*operation // by operation id
	methods map[string][]string   // of each path

	complete sync.Once
	document []byte // the OpenAPI document, once it is complete
}

// New makes an API without operations. It registers its metrics, so a
// registerer can be used once.
func New(o Options) *API {
	if o.Now == nil {
		o.Now = time.Now
	}
	a := &API{
		Options: o,
		mux:     http.NewServeMux(),
		metrics: newMetrics(o.Registerer),
		routes:  map[string]*operation{},
		methods: map[string][]string{},
	}
	a.huma = huma.NewAPI(description(), (*adapter)(a))
	a.mux.HandleFunc("/", a.unknownPath)
	a.mux.HandleFunc("GET /openapi.json", a.serveDocument)
	return a
}

// Mux is for pages that need no token, beside the operations.
func (a *API) Mux() *http.ServeMux { return a.mux }

// Handler serves what was registered until now and answers every other path
// with a problem document, so it can be a program's outermost handler.
func (a *API) Handler() http.Handler {
	a.complete.Do(func() {
		markNullable(a.huma.OpenAPI())
		text, err := JSON(a.huma.OpenAPI())
		if err != nil {
			panic(err) // an operation's example cannot be written
		}
		a.document = unescaped(text)
	})
	return http.HandlerFunc(a.serve)
}

// requestState is what is known of a request so far.
type requestState struct {
	request    *http.Request
	route      string
	caller     Caller
	tenant     uuid.UUID // whose data was requested; the token's own tenant where that was refused
	named      string    // the other tenant that a request was refused for
	clientGone bool      // the client does not wait for the answer any more
	fields     []string  // names of the fields that its body may have
}

type stateKey struct{}

func stateOf(ctx context.Context) *requestState {
	state, _ := ctx.Value(stateKey{}).(*requestState)
	return state
}

// HeaderLines are all lines of a header of the request of ctx.
func HeaderLines(ctx context.Context, name string) []string {
	if state := stateOf(ctx); state != nil {
		return state.request.Header.Values(name)
	}
	return nil
}

// IsHead reports whether the request of ctx has the method HEAD.
func IsHead(ctx context.Context) bool {
	state := stateOf(ctx)
	return state != nil && state.request.Method == http.MethodHead
}

// serve answers a request and records it.
func (a *API) serve(w http.ResponseWriter, r *http.Request) {
	begin := time.Now()
	state := &requestState{route: otherRoute}
	r = r.WithContext(context.WithValue(r.Context(), stateKey{}, state))
	state.request = r
	out := &response{to: w, head: r.Method == http.MethodHead}
	defer func() {
		if cause := recover(); cause != nil {
			a.recovered(out, r, cause)
		}
		out.finish()
		a.record(state, r, out, time.Since(begin))
		if out.cut {
			panic(http.ErrAbortHandler) // the client must see that it is incomplete
		}
	}()
	if a.crossOrigin(out, r) {
		return
	}
	if !isCanonical(r.URL.Path) {
		a.notFound(out, r) // the mux would redirect the client
		return
	}
	a.mux.ServeHTTP(out, r)
}

// recovered turns a panic into a problem, or aborts an answer that is under way.
func (a *API) recovered(out *response, r *http.Request, cause any) {
	err, _ := cause.(error)
	aborted := errors.Is(err, http.ErrAbortHandler)
	if !aborted {
		a.Log.ErrorContext(r.Context(), "request panicked", "route", stateOf(r.Context()).route, "panic", cause, "stack", string(debug.Stack()))
	}
	if out.streaming || aborted {
		out.cut = true
		return
	}
	out.reset()
	a.refuse(out, r, internalProblem())
}

// isCanonical reports whether a path has no other, shorter spelling.
func isCanonical(p string) bool {
	canonical := path.Clean("/" + p)
	if strings.HasSuffix(p, "/") && canonical != "/" {
		canonical += "/"
	}
	return p == canonical
}

// unknownPath answers requests to paths, or with methods, that are not registered.
func (a *API) unknownPath(w http.ResponseWriter, r *http.Request) {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		other := r.Clone(r.Context())
		other.Method = method
		if _, pattern := a.mux.Handler(other); method != r.Method && pattern != "/" && pattern != "" {
			stateOf(r.Context()).route = pageRoute
			p := wrongMethodProblem(r.Method, method)
			p.header.Set("Allow", map[string]string{http.MethodGet: "GET, HEAD", http.MethodPost: "POST"}[method])
			a.refuse(w, r, p)
			return
		}
	}
	a.notFound(w, r)
}

func (a *API) notFound(w http.ResponseWriter, r *http.Request) {
	a.refuse(w, r, NewProblem(NotFound, "There is nothing at this path. The operations are listed at /openapi.json."))
}

// wrongMethod answers for the methods of a path that has others.
func (a *API) wrongMethod(path string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		stateOf(r.Context()).route = path
		allowed := slices.Clone(a.methods[path])
		if slices.Contains(allowed, http.MethodGet) {
			allowed = append(allowed, http.MethodHead)
		}
		slices.Sort(allowed)
		p := wrongMethodProblem(r.Method, allowed[0])
		p.header.Set("Allow", strings.Join(allowed, ", "))
		a.refuse(w, r, p)
	}
}

func wrongMethodProblem(method, allowed string) *Problem {
	return NewProblem(methodNotAllowed, "%s is not among the methods of this path: use %s.", method, allowed)
}
