package reporter

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/sony/gobreaker/v2"
)

// Metrics count the calls that report usage to Stripe, and show the breaker.
type Metrics struct {
	reports      *prometheus.CounterVec
	breakerTrips prometheus.Counter
	breaker      atomic.Pointer[breaker] // whose state is shown; nil: closed
}

// NewMetrics registers the metrics, each at 0 for every label value; nil
// registers them nowhere.
func NewMetrics(r prometheus.Registerer) *Metrics {
	register := promauto.With(r)
	m := &Metrics{
		reports: register.NewCounterVec(prometheus.CounterOpts{
			Name: "stripe_usage_report_total",
			Help: "Calls that reported overage to Stripe, by outcome.",
		}, []string{"status"}),
		breakerTrips: register.NewCounter(prometheus.CounterOpts{
			Name: "stripe_breaker_trips_total",
			Help: "How often the breaker before Stripe has opened.",
		}),
	}
	for _, o := range Outcomes() {
		m.reports.WithLabelValues(string(o))
	}
	register.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "stripe_breaker_state",
		Help: "State of the breaker before Stripe: 0 closed, 1 half open, 2 open.",
	}, m.breakerState)
	return m
}

func (m *Metrics) breakerState() float64 {
	b := m.breaker.Load()
	if b == nil {
		return float64(gobreaker.StateClosed)
	}
	return float64(b.state())
}

// Collector measures the running periods when Prometheus asks, at most every
// five seconds: what their overage costs so far, in total or by tenant.
type Collector struct {
	pool      *pgxpool.Pool
	perTenant bool
	log       *slog.Logger
	cost      *prometheus.Desc
	value     *prometheus.Desc

	mu       sync.Mutex
	at       time.Time
	costs    map[string]float64 // cents by tenant, "" for all
	counters []counter
}

// counter is the counter of an agent in a running period.
type counter struct {
	tenant, agent string
	count         int64
}

// NewCollector makes the collector. With perTenant the cost has a label
// tenant_id, and usage_counter_value shows each counter.
func NewCollector(pool *pgxpool.Pool, perTenant bool, log *slog.Logger) *Collector {
	c := &Collector{pool: pool, perTenant: perTenant, log: log, costs: map[string]float64{}}
	var labels []string
	if perTenant {
		labels = []string{"tenant_id"}
	} else {
		c.costs[""] = 0
	}
	c.cost = prometheus.NewDesc("usage_overage_cost_cents",
		"What the overage of the running periods costs so far, in hundredths of the currency.", labels, nil)
	c.value = prometheus.NewDesc("usage_counter_value",
		"Units counted in the running period.", []string{"tenant_id", "agent"}, nil)
	return c
}

// Describe sends the descriptions of the metrics.
func (c *Collector) Describe(to chan<- *prometheus.Desc) {
	to <- c.cost
	if c.perTenant {
		to <- c.value
	}
}

// Collect sends the values. While Postgres is away they are the last known
// ones.
func (c *Collector) Collect(to chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.at) > 5*time.Second {
		c.at = time.Now()
		c.read()
	}
	for tenant, cents := range c.costs {
		var labels []string
		if c.perTenant {
			labels = []string{tenant}
		}
		to <- prometheus.MustNewConstMetric(c.cost, prometheus.GaugeValue, cents, labels...)
	}
	for _, u := range c.counters {
		to <- prometheus.MustNewConstMetric(c.value, prometheus.GaugeValue, float64(u.count), u.tenant, u.agent)
	}
}

// The limits are the plan's, since a running period is not frozen. As in the
// API, each agent's cost is rounded once, half up.
const runningSQL = `
select
    case when $1 then u.tenant_id::text else '' end as tenant,
    case when $1 then u.agent else '' end as agent,
    sum(u.count)::bigint as count,
    sum(case
        when p.trial or p.plan_id is null or (l.agent is not null and l."limit" is null) then 0
        else floor(greatest(0, u.count - coalesce(l."limit", 0)) * a.unit_price * 100 + 0.5)
    end)::float8 as cents
from billing_periods p
join usage_counters u using (tenant_id, period_start)
join agents a using (agent)
left join allowances l on l.plan_id = p.plan_id and l.agent = u.agent
where p.frozen_at is null
  and p.period_start <= now()
group by 1, 2`

func (c *Collector) read() {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	costs, counters := map[string]float64{}, []counter(nil)
	if !c.perTenant {
		costs[""] = 0
	}
	var one counter
	var cents float64
	rows, _ := c.pool.Query(ctx, runningSQL, c.perTenant)
	_, err := pgx.ForEachRow(rows, []any{&one.tenant, &one.agent, &one.count, &cents}, func() error {
		costs[one.tenant] += cents
		if c.perTenant {
			counters = append(counters, one)
		}
		return nil
	})
	if err != nil {
		c.log.Warn("reading the cost of the overage failed", "err", err)
		return
	}
	c.costs, c.counters = costs, counters
}
