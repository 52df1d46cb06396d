package reporter

import (
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// overageCost is what usage_overage_cost_cents says in a process that begins
// now.
func (env *testEnv) overageCost() float64 {
	env.t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(NewCollector(env.db.Pool, false, slog.New(slog.DiscardHandler)))
	families, err := registry.Gather()
	env.must(err)
	if len(families) != 1 || families[0].GetName() != "usage_overage_cost_cents" || len(families[0].Metric) != 1 {
		env.t.Fatalf("%v", families)
	}
	return families[0].Metric[0].GetGauge().GetValue()
}

// Also at a price that is far too high, which must not hide the cost of all.
func TestOverageCostMetric(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	env.set(time.Now())
	a := env.tenant("a", env.time().AddDate(0, 0, -5), env.time().AddDate(0, 0, 20))
	a.use("inbox", 510)
	a.use("invoice", 51)
	if got := env.overageCost(); got != 10*2+1*10 {
		t.Errorf("%v cents, want 30", got)
	}
	env.db.Exec(`update agents set unit_price = 900000000000 where agent = 'inbox'`)
	a.use("inbox", 1_000_000_500)
	if got := env.overageCost(); got != 1_000_000_000*900000000000*100+10 {
		t.Errorf("%v cents, want 9e22", got)
	}
}
