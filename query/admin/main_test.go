package admin

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
	"odometer/migrations/pgtest"
	"odometer/query"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const sampleSQL = `
insert into catalogue (currency, applied_at) values ('usd', now());
insert into agents (agent, position, noun, limit_key, unit_price, meter, lookup_key) values
    ('meeting', 2, 'meeting', 'meetings_per_month', 0.15, 'meeting_overage', 'meeting_overage'),
    ('inbox', 0, 'email', 'emails_per_month', 0.025, 'inbox_overage', 'inbox_overage'),
    ('invoice', 1, 'invoice', 'invoices_per_month', 0.10, 'invoice_overage', 'invoice_overage');
insert into plans (plan_id, position, name, price) values
    ('inbox_only', 0, 'InboxPilot', 29),
    ('bundle', 1, 'FounderPilot Bundle', 49);
insert into allowances (plan_id, agent, "limit") values
    ('inbox_only', 'inbox', 500),
    ('bundle', 'inbox', 500),
    ('bundle', 'invoice', 50),
    ('bundle', 'meeting', null);
insert into stream_epochs (epoch, first_seq, stream_created, partitions) values (1, 1, now(), 4);
insert into stream_positions (partition, stream_epoch, seq, stored_at, complete_until)
select n, 1, 100 + n, now(), now() - interval '1 second' from generate_series(0, 3) as n;`

// testEnv is a database with a catalogue, and a stream of four partitions that
// was read a second ago.
type testEnv struct {
	testing.TB
	pool *pgxpool.Pool
}

func newTestEnv(t testing.TB) *testEnv {
	t.Helper()
	b := &testEnv{t, pgtest.New(t)}
	b.exec(sampleSQL)
	return b
}

func (b *testEnv) exec(sql string, args ...any) {
	b.Helper()
	if _, err := b.pool.Exec(context.Background(), sql, args...); err != nil {
		b.Fatalf("%v\n%s", err, sql)
	}
}

// get is must for what a function returns with an error.
func get[T any](t testing.TB) func(T, error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// at is a time relative to now, as Postgres keeps it.
func at(d time.Duration) time.Time { return time.Now().Add(d).UTC().Truncate(time.Microsecond) }

const day = 24 * time.Hour

// subscribe gives a new tenant a subscription without periods; no plan is "".
func (b *testEnv) subscribe(status odometer.Status, plan string) uuid.UUID {
	b.Helper()
	tenant := uuid.New()
	b.exec(`insert into subscriptions (tenant_id, plan_id, status, period_interval, anchor)
		values ($1, nullif($2, ''), $3, 'month', $4)`, tenant, plan, status, at(-10*day))
	return tenant
}

// period gives the tenant a period with its plan.
func (b *testEnv) period(tenant uuid.UUID, start, end time.Time) {
	b.Helper()
	b.exec(`insert into billing_periods (tenant_id, period_start, period_end, plan_id, trial)
		select tenant_id, $2, $3, plan_id, status = 'trial'
		from subscriptions where tenant_id = $1`, tenant, start, end)
}

// freeze ends the tenant's periods with the limits of today.
func (b *testEnv) freeze(tenant uuid.UUID) {
	b.Helper()
	b.exec(`update billing_periods set frozen_at = now() where tenant_id = $1`, tenant)
	b.exec(`insert into period_allowances (tenant_id, period_start, agent, "limit", unit_price)
		select p.tenant_id, p.period_start, a.agent, case when l.agent is null then 0 else l."limit" end, a.unit_price
		from billing_periods p cross join agents a
		left join allowances l on l.plan_id = p.plan_id and l.agent = a.agent
		where p.tenant_id = $1 and not p.trial`, tenant)
}

// count gives the tenant's newest period that has begun a counter.
func (b *testEnv) count(tenant uuid.UUID, agent string, n int64) {
	b.Helper()
	b.exec(`insert into usage_counters (tenant_id, agent, period_start, period_end, count)
		select tenant_id, $2, period_start, period_end, $3
		from billing_periods where tenant_id = $1 and period_start <= now()
		order by period_start desc limit 1`, tenant, agent, n)
}

// customer is a tenant whose running period has used that much of the inbox.
func (b *testEnv) customer(plan string, used int64) uuid.UUID {
	b.Helper()
	tenant := b.subscribe(odometer.Active, plan)
	b.period(tenant, at(-10*day), at(20*day))
	b.count(tenant, "inbox", used)
	return tenant
}

func (t *Tenant) agent(name string) (use query.AgentUsage) {
	for _, m := range t.Usage {
		if m.Name == name {
			use = m.Value
		}
	}
	return use
}
