package query

import (
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// requests reads usage_api_requests_total as "route status": count.
func requests(t *testing.T, registry *prometheus.Registry) (counts map[string]float64, latencies uint64) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counts = map[string]float64{}
	for _, family := range families {
		for _, m := range family.Metric {
			switch family.GetName() {
			case "usage_api_requests_total":
				counts[fmt.Sprintf("%s %s", m.Label[0].GetValue(), m.Label[1].GetValue())] = m.Counter.GetValue()
			case "usage_api_latency_seconds":
				latencies = m.Histogram.GetSampleCount()
			}
		}
	}
	return counts, latencies
}

func TestMetricsAreThereFromTheStart(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	registry := prometheus.NewRegistry()
	h := NewHandler(Options{Pool: b.pool, Keys: secretKeys(t), Log: quiet, Registerer: registry})
	counts, latencies := requests(t, registry)
	if latencies != 0 {
		t.Errorf("%d latencies before any request", latencies)
	}
	for _, status := range []int{200, 304, 400, 401, 403, 404, 405, 429, 499, 500, 503} {
		if n, ok := counts[fmt.Sprintf("%s %d", usageRoute, status)]; !ok || n != 0 {
			t.Errorf("status %d: %v, there %v", status, n, ok)
		}
	}
	get(h, usageRoute, reads(t, exampleCustomer(b)))
	get(h, usageRoute, "")
	get(h, "/somewhere", "")
	counts, latencies = requests(t, registry)
	if counts[usageRoute+" 200"] != 1 || counts[usageRoute+" 401"] != 1 || counts["other 404"] != 1 || latencies != 2 {
		t.Errorf("%v, %d latencies", counts, latencies)
	}
}
