package api

import (
	"context"
	"net/http"
	"reflect"
	"slices"
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

// guarded is a route with its allowance.
type guarded struct {
	Route
	limit *limiter
}

// writes reports whether the operation changes a tenant's books.
func (g *guarded) writes() bool { return g.Scope == WriteScope && !g.AdminOnly }

// Register puts an operation behind the door. do gets a caller that may ask;
// in is what the request says, checked by its tags (see huma's documentation
// of inputs and outputs). An error that is a *Problem is the answer as it is;
// that the database is away becomes a 503; any other is logged and becomes a
// 500 that tells nothing.
func Register[I, O any](a *API, r Route, do func(ctx context.Context, who Caller, in *I) (*O, error)) {
	if _, asks := reflect.TypeFor[I]().FieldByName("Body"); asks {
		r.Problems = append(slices.Clone(r.Problems), TooSlow, TooLarge, UnsupportedMediaType)
	}
	op := a.operation(r)
	huma.Register(a.huma, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := do(ctx, CallerOf(ctx), in)
		if err != nil {
			p := a.problemOf(ctx, err)
			p.Instance = visitOf(ctx).request.URL.EscapedPath()
			return nil, p
		}
		return out, nil
	})
}

// RegisterPlain is Register for an operation that reads the request's body
// itself. serve returns an error before it has answered, or nil after.
func RegisterPlain(a *API, r Route, serve func(w http.ResponseWriter, r *http.Request, who Caller) error) {
	op := a.operation(r)
	a.huma.OpenAPI().AddOperation(&op)
	a.huma.Adapter().Handle(&op, func(ctx huma.Context) {
		request, w := humago.Unwrap(ctx)
		if err := serve(w, request, CallerOf(request.Context())); err != nil {
			a.refuse(w, request, a.problemOf(request.Context(), err))
		}
	})
}

// operation books a route and describes it.
func (a *API) operation(r Route) huma.Operation {
	if r.Status == 0 {
		r.Status = http.StatusOK
	}
	g := &guarded{Route: r, limit: newLimiter(r.PerMinute, time.Minute, a.Now)}
	a.routes[r.ID] = g
	statuses := append([]int{r.Status}, commonStatuses...)
	statuses = append(statuses, r.Statuses...)
	for _, k := range r.Problems {
		statuses = append(statuses, k.status)
	}
	a.metrics.know(r.Path, statuses...)
	return describe(a.huma.OpenAPI().Components.Schemas, g)
}
