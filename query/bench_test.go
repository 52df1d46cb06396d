package query

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"odometer/api/apitest"
)

const benchTenants = 10_000

// Each tenant has three months with three counters each. The small tables have
// no statistics, as in life: autovacuum never gets to analyze them.
const benchSQL = `
insert into subscriptions (tenant_id, plan_id, status, period_interval, anchor)
select gen_random_uuid(), 'price_bundle_monthly', 'active', 'month', '2026-09-01Z'
from generate_series(1, 10000);
insert into billing_periods (tenant_id, period_start, period_end, plan_id)
select tenant_id, month, month + interval '1 month', plan_id
from subscriptions, generate_series(timestamptz '2026-09-01Z', '2026-11-01Z', '1 month') as month;
insert into usage_counters (tenant_id, agent, period_start, period_end, count)
select tenant_id, agent, period_start, period_end, random() * 600
from billing_periods, agents;
analyze subscriptions, billing_periods, usage_counters;`

// BenchmarkUsage measures a whole request, from token to bytes, beside a bare
// `select 1` over the same pool.
func BenchmarkUsage(b *testing.B) {
	env := newTestEnv(b)
	env.exec(benchSQL)
	rows, err := env.pool.Query(context.Background(), `select tenant_id from subscriptions`)
	if err != nil {
		b.Fatal(err)
	}
	tenants, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil || len(tenants) != benchTenants {
		b.Fatal(len(tenants), err)
	}
	bearers := make([]string, len(tenants))
	for i, tenant := range tenants {
		bearers[i] = reads(b, tenant)
	}
	h := newAPI(b, env.pool, 10_000_000)
	b.Run("answer", func(b *testing.B) {
		spread(b, func(i int) {
			if r := apitest.Get(h, usageRoute, bearers[i%len(bearers)]); r.StatusCode != http.StatusOK {
				b.Errorf("status %d", r.StatusCode)
			}
		})
	})
	b.Run("select 1", func(b *testing.B) { spread(b, func(int) { selectOne(b, env.pool) }) })
}

func selectOne(b *testing.B, pool *pgxpool.Pool) {
	var one int
	if err := pool.QueryRow(context.Background(), `select 1`).Scan(&one); err != nil {
		b.Error(err)
	}
}

// spread runs do in parallel and reports how long it took, beside the mean.
func spread(b *testing.B, do func(i int)) {
	var mu sync.Mutex
	var all []time.Duration
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		var own []time.Duration
		for i := int(time.Now().UnixNano() % benchTenants); pb.Next(); i += 7 {
			begin := time.Now()
			do(i)
			own = append(own, time.Since(begin))
		}
		mu.Lock()
		defer mu.Unlock()
		all = append(all, own...)
	})
	slices.Sort(all)
	for name, share := range map[string]float64{"p50": .50, "p95": .95, "p99": .99} {
		b.ReportMetric(float64(all[int(share*float64(len(all)-1))].Microseconds()), name+"-µs")
	}
}
