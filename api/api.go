package api

import (
	"context"
	"log/slog"
	"net"
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
		text, err := JSON(a.huma.OpenAPI())
		if err != nil {
			panic(err) // an operation's example cannot be written
		}
		a.document = unescaped(text)
	})
	return http.HandlerFunc(a.serve)
}

// visit is what becomes known of a request on its way.
type visit struct {
	request *http.Request
	route   string
	caller  Caller
	tenant  uuid.UUID // whose books were asked for; the token's own, where that was refused
	named   string    // the other tenant that a request was refused for
	hungUp  bool      // nobody waits for the answer any more
	fields  []string  // that its body may have
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

// IsHead reports whether the request that is being answered asks for headers
// alone.
func IsHead(ctx context.Context) bool {
	v := visitOf(ctx)
	return v != nil && v.request.Method == http.MethodHead
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
	if !clean(r.URL.Path) {
		a.nothing(out, r) // the mux would send the client elsewhere
		return
	}
	a.mux.ServeHTTP(out, r)
}

// panicked turns a bug into an answer, or cuts off one that is under way.
func (a *API) panicked(out *response, r *http.Request, cause any) {
	if cause != http.ErrAbortHandler {
		a.Log.ErrorContext(r.Context(), "a request panicked", "route", visitOf(r.Context()).route, "panic", cause, "stack", string(debug.Stack()))
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
		slog.Float64("ms", float64(took.Microseconds())/1000),
	}
	for _, known := range [][2]string{
		{"tenant", shownTenant(v.tenant)}, {"named", v.named}, {"role", string(v.caller.Role)}, {"subject", cleaned(v.caller.Subject)}, {"remote", remote(r)},
	} {
		if known[1] != "" {
			attrs = append(attrs, slog.String(known[0], known[1]))
		}
	}
	a.Log.LogAttrs(r.Context(), slog.LevelInfo, "request", attrs...)
}

// clean reports whether a path is written in one way only.
func clean(p string) bool {
	canonical := path.Clean("/" + p)
	if strings.HasSuffix(p, "/") && canonical != "/" {
		canonical += "/"
	}
	return p == canonical
}

func shownTenant(tenant uuid.UUID) string {
	if tenant == uuid.Nil {
		return ""
	}
	return tenant.String()
}

// remote is the address of who asks, or of the proxy that asks for them.
func remote(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// unknownPath answers where nothing is registered: there is nothing, or not by
// this method.
func (a *API) unknownPath(w http.ResponseWriter, r *http.Request) {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		other := r.Clone(r.Context())
		other.Method = method
		if _, pattern := a.mux.Handler(other); method != r.Method && pattern != "/" && pattern != "" {
			visitOf(r.Context()).route = pageRoute
			p := notAmong(r.Method, method)
			p.header.Set("Allow", map[string]string{http.MethodGet: "GET, HEAD", http.MethodPost: "POST"}[method])
			a.refuse(w, r, p)
			return
		}
	}
	a.nothing(w, r)
}

func (a *API) nothing(w http.ResponseWriter, r *http.Request) {
	a.refuse(w, r, Refuse(NotFound, "There is nothing at this path. The operations are listed at /openapi.json."))
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
		p := notAmong(r.Method, allowed[0])
		p.header.Set("Allow", strings.Join(allowed, ", "))
		a.refuse(w, r, p)
	}
}

func notAmong(method, allowed string) *Problem {
	return Refuse(methodNotAllowed, "%s is not among the methods of this path: use %s.", method, allowed)
}
