package api

import (
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
)

// statusClientGone is how a request is recorded whose client did not wait for
// the answer: it is not an error of the service.
const statusClientGone = 499

// Names in logs and metrics for requests that are not operations.
const (
	pageRoute  = "pages" // what needs no token: the dashboard, the widget, the documentation
	otherRoute = "other" // paths that nothing serves
)

// commonStatuses are those that every operation can answer with.
var commonStatuses = []int{
	http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden,
	http.StatusMethodNotAllowed, http.StatusTooManyRequests, statusClientGone,
	http.StatusInternalServerError, http.StatusServiceUnavailable,
}

type metrics struct {
	requests *prometheus.CounterVec
	latency  prometheus.Histogram
}

// newMetrics makes the metrics, and registers them unless the registerer is nil.
func newMetrics(registerer prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "usage_api_requests_total",
			Help: "Requests to the usage API, by route and status. 499: the client hung up.",
		}, []string{"route", "status"}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "usage_api_latency_seconds",
			Help: "Time from a request to the usage API until its answer is written.",
			// Fine where the answers lie and around the 200 ms that are promised.
			Buckets: []float64{
				.0005, .001, .0015, .002, .003, .004, .005, .0075, .01, .015, .02, .03,
				.05, .075, .1, .15, .2, .25, .3, .5, 1, 2.5, 5, 10,
			},
		}),
	}
	m.declare(pageRoute, http.StatusOK, http.StatusNotModified, http.StatusNotFound, http.StatusMethodNotAllowed)
	m.declare(otherRoute, http.StatusNotFound)
	if registerer != nil {
		registerer.MustRegister(m.requests, m.latency)
	}
	return m
}

// declare makes the metric exist for a route's statuses, at 0.
func (m *metrics) declare(route string, statuses ...int) {
	for _, status := range statuses {
		m.requests.WithLabelValues(route, strconv.Itoa(status))
	}
}

func (m *metrics) observe(route string, status int, took time.Duration) {
	m.requests.WithLabelValues(route, strconv.Itoa(status)).Inc()
	if route != otherRoute && route != pageRoute {
		m.latency.Observe(took.Seconds())
	}
}

// record counts and logs a request that has its answer.
func (a *API) record(state *requestState, r *http.Request, out *response, took time.Duration) {
	if state.route == otherRoute && r.Pattern != "" && r.Pattern != "/" {
		state.route = pageRoute
	}
	status := out.code()
	if state.clientGone {
		status = statusClientGone
	}
	a.metrics.observe(state.route, status, took)
	attrs := []slog.Attr{
		slog.String("method", r.Method),
		slog.String("route", state.route),
		slog.Int("status", status),
		slog.Float64("ms", float64(took.Microseconds())/1000),
	}
	for _, known := range [][2]string{
		{"tenant", tenantText(state.tenant)}, {"named", state.named}, {"role", string(state.caller.Role)}, {"subject", printable(state.caller.Subject)}, {"remote", remote(r)},
	} {
		if known[1] != "" {
			attrs = append(attrs, slog.String(known[0], known[1]))
		}
	}
	a.Log.LogAttrs(r.Context(), slog.LevelInfo, "request", attrs...)
}

func tenantText(tenant uuid.UUID) string {
	if tenant == uuid.Nil {
		return ""
	}
	return tenant.String()
}

// remote is the address of the client, or of the proxy before it.
func remote(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}
