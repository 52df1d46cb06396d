package aggregator

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"odometer"
	"odometer/aggregator/apply"
)

// Metrics are the aggregator's. Their names are the contract's.
type Metrics struct {
	events      *prometheus.CounterVec
	duplicates  prometheus.Counter
	deadLetters *prometheus.CounterVec
	batchTime   prometheus.Histogram
	batchSize   prometheus.Histogram
	lag         prometheus.Gauge
	freshness   prometheus.Histogram
	fill        prometheus.Gauge
	perTenant   bool
}

// NewMetrics registers the aggregator's metrics. perTenant adds the label
// tenant_id to usage_events_total: one series per tenant, agent and action.
func NewMetrics(r prometheus.Registerer, perTenant bool) *Metrics {
	labels := []string{"agent", "action_type"}
	if perTenant {
		labels = append(labels, "tenant_id")
	}
	m := &Metrics{
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "usage_events_total", Help: "Events counted.",
		}, labels),
		duplicates: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "usage_duplicates_total", Help: "Messages that repeat an event that counts.",
		}),
		deadLetters: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "usage_dead_letters_total", Help: "Messages that cannot be events, by reason.",
		}, []string{"reason"}),
		batchTime: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "usage_batch_seconds", Help: "Time to classify and commit one batch.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}),
		batchSize: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "usage_batch_events", Help: "Messages in one batch.",
			Buckets: prometheus.ExponentialBuckets(1, 3, 10),
		}),
		lag: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "usage_lag_messages", Help: "Messages that the stream holds beyond the lowest position of this process's partitions.",
		}),
		freshness: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "usage_freshness_seconds", Help: "From stored by the stream until visible in the counter.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 16),
		}),
		fill: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "usage_stream_fill_ratio", Help: "Bytes in the stream of the bytes it may hold; 0 when there is no limit.",
		}),
		perTenant: perTenant,
	}
	for _, reason := range odometer.Reasons() {
		m.deadLetters.WithLabelValues(string(reason))
	}
	r.MustRegister(m.events, m.duplicates, m.deadLetters, m.batchTime, m.batchSize, m.lag, m.freshness, m.fill)
	return m
}

// addSeries makes a series at 0 for each agent and action of the catalogue.
func (m *Metrics) addSeries(c *odometer.Catalogue) {
	if m.perTenant {
		return // the tenants of a series are known only when they send
	}
	for _, agent := range c.Agents {
		for _, action := range slices.Concat(agent.Actions, []string{odometer.AdjustmentAction}) {
			m.events.WithLabelValues(agent.ID, action)
		}
	}
}

// countEvents adds new events, each series once.
func (m *Metrics) countEvents(items []*apply.Item) {
	type series struct {
		agent, action string
		tenant        uuid.UUID
	}
	counts := map[series]int{}
	for _, i := range items {
		s := series{agent: i.Event.Agent, action: i.Event.Action}
		if m.perTenant {
			s.tenant = i.Event.Tenant
		}
		counts[s]++
	}
	for s, n := range counts {
		labels := []string{s.agent, s.action}
		if m.perTenant {
			labels = append(labels, s.tenant.String())
		}
		m.events.WithLabelValues(labels...).Add(float64(n))
	}
}

// report brings a committed batch into metrics and log.
func (w *worker) report(b *apply.Batch, took time.Duration) {
	m, log := w.a.Metrics, w.a.Log
	now := time.Now()
	m.batchTime.Observe(took.Seconds())
	m.batchSize.Observe(float64(len(b.Items)))
	m.duplicates.Add(float64(b.Duplicates - b.Reread))
	m.countEvents(b.Inserted)
	for _, i := range b.Inserted {
		m.freshness.Observe(now.Sub(i.Event.RecordedAt).Seconds())
	}
	for _, d := range b.Dead {
		m.deadLetters.WithLabelValues(string(d.Rejection.Reason)).Inc()
	}
	for _, o := range b.OverLimit {
		log.Warn("a counter has crossed its limit", "tenant", o.Tenant, "agent", o.Agent, "overage", o.Overage)
	}
	if !log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	for _, i := range b.Inserted {
		e := &i.Event
		log.Debug("counted", "tenant", e.Tenant, "agent", e.Agent, "action", e.Action, "quantity", e.Quantity, "key", e.Key, "seq", e.Position.Seq)
	}
	for _, d := range b.Dead {
		log.Debug("dead letter", "reason", d.Rejection.Reason, "detail", d.Rejection.Detail, "seq", d.Item.Event.Position.Seq)
	}
}
