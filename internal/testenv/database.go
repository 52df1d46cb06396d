package testenv

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
	"odometer/billing"
	"odometer/migrations/pgtest"
)

// Bundle is the plan of the sample catalogue that covers all its agents: 500
// mails, 50 invoices and 30 meetings.
const Bundle = "price_bundle_monthly"

// Database is one test's database, migrated, with the sample catalogue.
type Database struct {
	t    testing.TB
	Pool *pgxpool.Pool
}

// NewDatabase clones a database and applies the sample catalogue.
func NewDatabase(t testing.TB) *Database {
	t.Helper()
	return newDatabase(t, nil)
}

func newDatabase(t testing.TB, pool *pgxpool.Pool) *Database {
	t.Helper()
	if pool == nil {
		pool = pgtest.New(t)
	}
	ctx, cancel := within()
	defer cancel()
	if err := billing.ApplyCatalogue(ctx, pool, billing.SampleCatalogue()); err != nil {
		t.Fatal(err)
	}
	return &Database{t: t, Pool: pool}
}

// Tenant is the n-th tenant, the same in every test.
func Tenant(n int) uuid.UUID {
	return uuid.NewSHA1(uuid.NameSpaceOID, fmt.Appendf(nil, "tenant %d", n))
}

// Subscribe gives the first n tenants the bundle in a monthly period around now.
func (d *Database) Subscribe(n int) []uuid.UUID {
	d.t.Helper()
	var tenants []uuid.UUID
	for i := range n {
		tenants = append(tenants, Tenant(i))
		d.SetPeriod(tenants[i], time.Now().AddDate(0, 0, -10), time.Now().AddDate(0, 0, 20))
	}
	return tenants
}

// SetPeriod gives a tenant the bundle from start to end, as "odometer
// subscription set" does. An end in the past rolls on to now.
func (d *Database) SetPeriod(tenant uuid.UUID, start, end time.Time) {
	d.t.Helper()
	ctx, cancel := within()
	defer cancel()
	_, err := billing.Set(ctx, d.Pool, billing.SubscriptionChange{
		Tenant: tenant, PlanID: Bundle, Status: odometer.Active, Interval: odometer.Monthly,
		Start: start.UTC().Truncate(time.Microsecond), End: end.UTC().Truncate(time.Microsecond),
	}, time.Now())
	if err != nil {
		d.t.Fatal(err)
	}
}

// SetPositions stands for an aggregator that has read the stream's first epoch
// through seq, completely until a time.
func (d *Database) SetPositions(partitions int, seq int64, completeUntil time.Time) {
	d.t.Helper()
	d.Exec(`insert into stream_epochs (epoch, first_seq, stream_created, partitions) values (1, 1, now(), $1)`, partitions)
	d.Exec(`insert into stream_positions (partition, stream_epoch, seq, complete_until)
		select p, 1, $2, $3 from generate_series(0, $1 - 1) p`, partitions, seq, completeUntil)
}

// Exec runs a statement.
func (d *Database) Exec(sql string, args ...any) {
	d.t.Helper()
	ctx, cancel := within()
	defer cancel()
	if _, err := d.Pool.Exec(ctx, sql, args...); err != nil {
		d.t.Fatalf("%s: %v", sql, err)
	}
}

// Number is the one number that a query returns.
func (d *Database) Number(sql string, args ...any) int64 {
	d.t.Helper()
	return One[int64](d, sql, args...)
}

// Texts are the rows of a query for one text each, never nil.
func (d *Database) Texts(sql string, args ...any) []string {
	d.t.Helper()
	ctx, cancel := within()
	defer cancel()
	rows, _ := d.Pool.Query(ctx, sql, args...) // CollectRows returns its error
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		d.t.Fatalf("%s: %v", sql, err)
	}
	return found
}

// One is the one value that a query returns.
func One[T any](d *Database, sql string, args ...any) (value T) {
	d.t.Helper()
	ctx, cancel := within()
	defer cancel()
	if err := d.Pool.QueryRow(ctx, sql, args...).Scan(&value); err != nil {
		d.t.Fatalf("%s: %v", sql, err)
	}
	return value
}

// WaitForSQL waits until a query for one boolean returns true.
func (d *Database) WaitForSQL(sql string, args ...any) {
	d.t.Helper()
	Eventually(d.t, fmt.Sprint(sql, " ", args), func() bool { return One[bool](d, sql, args...) })
}

// Count is what is counted for a tenant and an agent over all periods.
func (d *Database) Count(tenant uuid.UUID, agent string) int64 {
	d.t.Helper()
	return d.Number(`select coalesce(sum(count), 0)::bigint from usage_counters where tenant_id = $1 and agent = $2`, tenant, agent)
}

const differingCountersSQL = `
select count(*)
from (
	select tenant_id, agent, period_start, sum(quantity) as quantity
	from usage_events
	group by 1, 2, 3
) e
full join usage_counters c using (tenant_id, agent, period_start)
where coalesce(e.quantity, 0) <> coalesce(c.count, 0)`

// CheckCounters checks promise 2: each counter is the sum of its events. It is
// for tests in which retention has removed nothing.
func (d *Database) CheckCounters() {
	d.t.Helper()
	if n := d.Number(differingCountersSQL); n != 0 {
		d.t.Errorf("%d counters are not the sum of their events", n)
	}
}
