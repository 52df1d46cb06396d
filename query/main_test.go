package query

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
	"odometer/api"
	"odometer/api/apitest"
	"odometer/internal/testenv"
	"odometer/migrations/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// partitions of the stream in tests.
const partitions = 4

// knownUntil is the freshness that tests give every partition.
const knownUntil = "2026-11-23T07:15:33.120987Z"

// testEnv is a database with the sample catalogue and a stream that was read.
type testEnv struct {
	testing.TB
	pool *pgxpool.Pool
}

func newTestEnv(t testing.TB) *testEnv {
	t.Helper()
	return readUntilKnown(t, testenv.NewDatabase(t))
}

// readUntilKnown is a database whose stream was read until knownUntil.
func readUntilKnown(t testing.TB, d *testenv.Database) *testEnv {
	t.Helper()
	d.SetPositions(partitions, 100, instant(knownUntil))
	return &testEnv{t, d.Pool}
}

func (b *testEnv) exec(sql string, args ...any) {
	b.Helper()
	if _, err := b.pool.Exec(context.Background(), sql, args...); err != nil {
		b.Fatalf("%v\n%s", err, sql)
	}
}

// subscribe gives a new tenant a subscription; no plan is "".
func (b *testEnv) subscribe(status odometer.Status, plan string) uuid.UUID {
	b.Helper()
	tenant := uuid.New()
	b.exec(`insert into subscriptions (tenant_id, plan_id, status, period_interval, anchor)
		values ($1, nullif($2, ''), $3, 'month', '2026-11-01')`, tenant, plan, status)
	return tenant
}

// period gives the tenant November with its subscription's plan.
func (b *testEnv) period(tenant uuid.UUID) {
	b.Helper()
	b.exec(`insert into billing_periods (tenant_id, period_start, period_end, plan_id, trial)
		select tenant_id, '2026-11-01Z', '2026-12-01Z', plan_id, status = 'trial'
		from subscriptions where tenant_id = $1`, tenant)
}

// count sets an agent's counter in November.
func (b *testEnv) count(tenant uuid.UUID, agent string, n int64) {
	b.Helper()
	b.exec(`insert into usage_counters (tenant_id, agent, period_start, period_end, count)
		values ($1, $2, '2026-11-01Z', '2026-12-01Z', $3)
		on conflict (tenant_id, agent, period_start) do update set count = excluded.count`, tenant, agent, n)
}

// customer is a tenant with an active subscription in November.
func (b *testEnv) customer(plan string) uuid.UUID {
	b.Helper()
	tenant := b.subscribe(odometer.Active, plan)
	b.period(tenant)
	return tenant
}

func (b *testEnv) usage(tenant uuid.UUID) *Answer {
	b.Helper()
	a, err := Usage(context.Background(), b.pool, tenant)
	if err != nil {
		b.Fatal(err)
	}
	return a
}

func (a *Answer) agent(t testing.TB, name string) AgentUsage {
	t.Helper()
	for _, m := range a.Usage {
		if m.Name == name {
			return m.Value
		}
	}
	t.Fatalf("no agent %s in %v", name, a.Usage)
	return AgentUsage{}
}

// newAPI is an API with the reads.
func newAPI(t testing.TB, pool *pgxpool.Pool, perMinute int, change ...func(*api.Options)) http.Handler {
	t.Helper()
	keys, err := api.KeysFromSecret(apitest.Secret, api.Expect{})
	if err != nil {
		t.Fatal(err)
	}
	o := api.Options{Keys: keys, Log: apitest.Quiet}
	for _, f := range change {
		f(&o)
	}
	a := api.New(o)
	Register(a, Options{Pool: pool, RequestsPerMinute: perMinute})
	return a.Handler()
}

func token(t testing.TB, c api.Claims) string {
	t.Helper()
	signed, err := api.SignToken(apitest.Secret, c, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// reads is a token that may read the tenant's usage.
func reads(t testing.TB, tenant uuid.UUID) string {
	t.Helper()
	return token(t, api.Claims{Tenant: tenant, Scopes: []string{api.ReadScope}})
}

// clock is a time that tests move.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }
