package reporter

import "github.com/prometheus/client_golang/prometheus"

// Metrics of what Stripe is told.
type Metrics struct {
	reports      *prometheus.CounterVec
	breakerState prometheus.Gauge
	breakerTrips prometheus.Counter
}

// NewMetrics registers the metrics, each at 0 for every label value; nil
// registers them nowhere.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		reports: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stripe_usage_report_total",
			Help: "Calls that told Stripe overage, by what the answer came to.",
		}, []string{"status"}),
		breakerState: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "stripe_breaker_state",
			Help: "State of the breaker before Stripe: 0 closed, 1 half open, 2 open.",
		}),
		breakerTrips: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "stripe_breaker_trips_total",
			Help: "How often the breaker before Stripe has opened.",
		}),
	}
	for _, a := range Answers() {
		m.reports.WithLabelValues(string(a))
	}
	if r != nil {
		r.MustRegister(m.reports, m.breakerState, m.breakerTrips)
	}
	return m
}
