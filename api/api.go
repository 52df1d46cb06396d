package api

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
)

// Options are what the door needs.
type Options struct {
	Keys       *Keys    // whose tokens are believed
	Origins    []string // origins of pages that may read answers, as "https://app.example"; see CheckOrigin
	Log        *slog.Logger
	Registerer prometheus.Registerer // nil: metrics are not shown
	Now        func() time.Time      // nil: time.Now
}

// API is the door with the operations behind it.
type API struct {
	Options
	mux     *http.ServeMux
	huma    huma.API
	metrics *metrics
	routes  map[string]*guarded // by operation id
	methods map[string][]string // of each path

	complete sync.Once
	document []byte // the OpenAPI document, once it is complete
}

// New makes a door with nothing behind it. It registers its metrics; a
// registerer takes them once.
func New(o Options) *API {
	if o.Now == nil {
		o.Now = time.Now
	}
	a := &API{
		Options: o,
		mux:     http.NewServeMux(),
		metrics: newMetrics(o.Registerer),
		routes:  map[string]*guarded{},
		methods: map[string][]string{},
	}
	a.huma = huma.NewAPI(description(), (*door)(a))
	a.mux.HandleFunc("/", a.unknownPath)
	a.mux.HandleFunc("GET /openapi.json", a.serveDocument)
	return a
}

// Mux takes pages that need no token, beside the operations.
func (a *API) Mux() *http.ServeMux { return a.mux }

// Handler serves what was registered until now, and answers every other path with a
// problem document, so that it can be a program's outermost handler.
func (a *API) Handler() http.Handler {
	a.complete.Do(func() {
		finishDocument(a.huma.OpenAPI())
		text, err := json.Marshal(a.huma.OpenAPI())
		if err != nil {
			panic(err) // an operation's example cannot be written
		}
		a.document = text
	})
	return http.HandlerFunc(a.serve)
}

// visit is what becomes known of a request on its way.
type visit struct {
	request *http.Request
	route   string
	caller  Caller
	tenant  uuid.UUID // that was asked about, uuid.Nil when it never came to that
	hungUp  bool      // nobody waits for the answer any more
}

type visitKey struct{}

func visitOf(ctx context.Context) *visit {
	v, _ := ctx.Value(visitKey{}).(*visit)
	return v
}

// HeaderLines are all lines of a header of the request that is being answered.
func HeaderLines(ctx context.Context, name string) []string {
	if v := visitOf(ctx); v != nil {
		return v.request.Header.Values(name)
	}
	return nil
}

// serve lets a request in and books it.
func (a *API) serve(w http.ResponseWriter, r *http.Request) {
	begin := time.Now()
	v := &visit{route: otherRoute}
	r = r.WithContext(context.WithValue(r.Context(), visitKey{}, v))
	v.request = r
	out := &response{to: w, head: r.Method == http.MethodHead}
	defer func() {
		if cause := recover(); cause != nil {
			a.panicked(out, r, cause)
		}
		out.finish()
		a.book(v, r, out, time.Since(begin))
		if out.cut {
			panic(http.ErrAbortHandler) // the client must not take it for whole
		}
	}()
	if a.crossOrigin(out, r) {
		return
	}
	a.mux.ServeHTTP(out, r)
}

// panicked turns a bug into an answer, or cuts off one that is under way.
func (a *API) panicked(out *response, r *http.Request, cause any) {
	if cause != http.ErrAbortHandler {
		a.Log.ErrorContext(r.Context(), "a request panicked", "route", visitOf(r.Context()).route, "panic", cause)
	}
	if out.streaming || cause == http.ErrAbortHandler {
		out.cut = true
		return
	}
	out.reset()
	a.refuse(out, r, internalProblem())
}

// book counts and logs a request that has its answer.
func (a *API) book(v *visit, r *http.Request, out *response, took time.Duration) {
	if v.route == otherRoute && r.Pattern != "" && r.Pattern != "/" {
		v.route = pageRoute
	}
	status := out.code()
	if v.hungUp {
		status = statusHungUp
	}
	a.metrics.observe(v.route, status, took)
	attrs := []slog.Attr{
		slog.String("method", r.Method),
		slog.String("route", v.route),
		slog.Int("status", status),
		slog.Duration("duration", took),
	}
	if v.tenant != uuid.Nil {
		attrs = append(attrs, slog.String("tenant", v.tenant.String()))
	}
	if v.caller.Subject != "" {
		attrs = append(attrs, slog.String("subject", v.caller.Subject))
	}
	a.Log.LogAttrs(r.Context(), slog.LevelInfo, "request", attrs...)
}

func (a *API) unknownPath(w http.ResponseWriter, r *http.Request) {
	a.refuse(w, r, Refuse(NotFound, "There is nothing at this path. The operations are listed at /docs."))
}

// wrongMethod answers for the methods of a path that has others.
func (a *API) wrongMethod(path string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		visitOf(r.Context()).route = path
		allowed := slices.Clone(a.methods[path])
		if slices.Contains(allowed, http.MethodGet) {
			allowed = append(allowed, http.MethodHead)
		}
		slices.Sort(allowed)
		p := Refuse(methodNotAllowed, "%s is not among the methods of this path: use %s.", r.Method, allowed[0])
		p.header.Set("Allow", strings.Join(allowed, ", "))
		a.refuse(w, r, p)
	}
}
