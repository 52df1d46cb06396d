package api

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// statusHungUp is how a request is booked whose client did not wait for the
// answer: it is nobody's failure.
const statusHungUp = 499

// Routes that are no operation, as they are logged and counted.
const (
	pageRoute  = "pages" // what needs no token: the dashboard, the widget, the documentation
	otherRoute = "other" // paths that nothing serves
)

// commonStatuses are those that every operation can answer with.
var commonStatuses = []int{
	http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden,
	http.StatusMethodNotAllowed, http.StatusTooManyRequests, statusHungUp,
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
	m.know(pageRoute, http.StatusOK, http.StatusNotModified, http.StatusNotFound, http.StatusMethodNotAllowed)
	m.know(otherRoute, http.StatusNotFound)
	if registerer != nil {
		registerer.MustRegister(m.requests, m.latency)
	}
	return m
}

// know has a route's statuses told from the start, at 0.
func (m *metrics) know(route string, statuses ...int) {
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
