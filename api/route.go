package api

import (
	"context"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// Route is one operation: what a client reads in the documentation, and who
// may call it how often.
type Route struct {
	ID, Method, Path, Tag, Summary, Description string

	Scope     string // ReadScope or WriteScope
	AdminOnly bool   // role admin; then the caller has no tenant, and tenant_id in the query is the operation's own
	PerMinute int    // requests of one tenant (an operator, where AdminOnly) in any minute; 0: no limit
	Status    int    // of an answer; 0: 200
	Statuses  []int  // other statuses that are no problems, as 304
	Problems  []Kind // what it can be refused with beyond what every operation can
	Example   any    // of an answer's body

	Refusals []*Problem // examples of what it can be refused with, where others' would not be true of it

	Document func(*huma.Operation) // adds what else the documentation should say; may be nil
}

// operation is a route with its rate limit.
type operation struct {
	Route
	limit *limiter
}

// writes reports whether the operation records a tenant's usage.
func (g *operation) writes() bool { return g.Scope == WriteScope && !g.AdminOnly }

// Register adds an operation. do gets an authorized caller; in is the request,
// validated by its tags (see huma's documentation of inputs and outputs). An
// error that is a *Problem is the answer as it is; an unavailable database
// becomes a 503; any other error is logged and becomes a 500 without details.
func Register[I, O any](a *API, r Route, do func(ctx context.Context, who Caller, in *I) (*O, error)) {
	if _, asks := reflect.TypeFor[I]().FieldByName("Body"); asks {
		r.Problems = append(slices.Clone(r.Problems), TooSlow, TooLarge, UnsupportedMediaType)
	}
	op := a.newOperation(r)
	huma.Register(a.huma, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := do(ctx, CallerOf(ctx), in)
		if err != nil {
			p := a.problemOf(ctx, err)
			p.Instance = stateOf(ctx).request.URL.EscapedPath()
			return nil, p
		}
		return out, nil
	})
}

// RegisterPlain is Register for an operation that reads the request's body
// itself. serve returns an error before it has answered, or nil after.
func RegisterPlain(a *API, r Route, serve func(w http.ResponseWriter, r *http.Request, who Caller) error) {
	op := a.newOperation(r)
	a.huma.OpenAPI().AddOperation(&op)
	a.huma.Adapter().Handle(&op, func(ctx huma.Context) {
		request, w := humago.Unwrap(ctx)
		if err := serve(w, request, CallerOf(request.Context())); err != nil {
			a.refuse(w, request, a.problemOf(request.Context(), err))
		}
	})
}

// newOperation keeps a route and describes it.
func (a *API) newOperation(r Route) huma.Operation {
	if r.Status == 0 {
		r.Status = http.StatusOK
	}
	g := &operation{Route: r, limit: newLimiter(r.PerMinute, time.Minute, a.Now)}
	a.routes[r.ID] = g
	statuses := append([]int{r.Status}, commonStatuses...)
	statuses = append(statuses, r.Statuses...)
	for _, k := range r.Problems {
		statuses = append(statuses, k.status)
	}
	a.metrics.declare(r.Path, statuses...)
	return describe(a.huma.OpenAPI().Components.Schemas, g)
}

// adapter receives operations from huma and puts each onto the mux behind the
// checks of its route. They come before huma reads anything of the request, so
// that an unauthorized caller learns nothing about its input.
type adapter API

// Handle puts an operation onto the mux.
func (d *adapter) Handle(op *huma.Operation, answer func(huma.Context)) {
	a := (*API)(d)
	g := a.routes[op.OperationID]
	if a.methods[op.Path] == nil {
		a.mux.HandleFunc(op.Path, a.wrongMethod(op.Path))
	}
	a.methods[op.Path] = append(a.methods[op.Path], op.Method)
	known, body := parameters(op), fields(a.Schemas(), op)
	if g.refusal(InvalidRequest) == nil {
		exampleUnknownParameter(op, known)
	}
	a.mux.HandleFunc(op.Method+" "+op.Path, func(w http.ResponseWriter, r *http.Request) {
		state := stateOf(r.Context())
		state.route, state.fields = op.Path, body
		_, p := a.authorize(g, r)
		if p == nil {
			p = checkQuery(r, known)
		}
		if p != nil {
			a.refuse(w, r, p)
			return
		}
		setSecurityHeaders(w.Header())
		answer(humago.NewContext(op, r, w))
	})
}

// ServeHTTP is of huma's interface, for its tests.
func (d *adapter) ServeHTTP(w http.ResponseWriter, r *http.Request) { (*API)(d).serve(w, r) }

// setSecurityHeaders sets what every answer of the API carries: caches keep it
// for its caller alone, and no browser shows it as a page.
func setSecurityHeaders(h http.Header) {
	h.Set("Cache-Control", "private, no-cache")
	if !slices.Contains(h["Vary"], "Authorization") { // an error may come after the answer was begun
		h.Add("Vary", "Authorization")
	}
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer")
}

// Schemas is where an operation of RegisterPlain, in its Document, registers the
// types of the bodies that it reads and writes itself.
func (a *API) Schemas() huma.Registry { return a.huma.OpenAPI().Components.Schemas }

// parameters are the names that an operation's query may have, in the order of
// the document.
func parameters(op *huma.Operation) (names []string) {
	for _, p := range op.Parameters {
		if p.In == "query" {
			names = append(names, p.Name)
		}
	}
	return names
}

// fields are the names that an operation's body may have.
func fields(schemas huma.Registry, op *huma.Operation) []string {
	if op.RequestBody == nil || op.RequestBody.Content["application/json"] == nil {
		return nil
	}
	body := op.RequestBody.Content["application/json"].Schema
	if body.Ref != "" {
		body = schemas.SchemaFromRef(body.Ref)
	}
	return slices.Sorted(maps.Keys(body.Properties))
}

// checkQuery rejects a query of which something would be ignored: with a
// misspelt filter the figures would be right, but of something else. (Huma can
// reject unknown names too, but it does not say which there are, accepts repeats
// and malformed queries, and does not check operations of RegisterPlain.)
func checkQuery(r *http.Request, known []string) *Problem {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return NewProblem(InvalidRequest, "The query string is not well-formed.")
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		switch n := len(query[name]); {
		case !slices.Contains(known, name) && len(known) == 0:
			return NewProblem(InvalidRequest, "%q is no parameter of this operation, which has none. Leave it out.", Excerpt(name))
		case !slices.Contains(known, name):
			return NewProblem(InvalidRequest, "%q is no parameter of this operation. It has %s.", Excerpt(name), strings.Join(known, ", "))
		case n > 1:
			return NewProblem(InvalidRequest, "%s is given %d times: give it once. Between the values of a list are commas.", name, n)
		}
	}
	return nil
}
