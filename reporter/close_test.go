package reporter

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"odometer"
	"odometer/billing"
)

// closeNow closes what is due, and checks how many periods that were.
func (env *testEnv) closeNow(want int) {
	env.t.Helper()
	closed, err := Close(env.t.Context(), env.db.Pool, env.time(), 15*time.Minute)
	env.must(err)
	if closed != want {
		env.t.Errorf("at %s %d periods were closed, want %d", env.time().Format(time.DateTime), closed, want)
	}
}

// rollOver lays the periods of all tenants as the clock has them.
func (env *testEnv) rollOver() {
	env.t.Helper()
	due, err := billing.Due(env.t.Context(), env.db.Pool, env.time(), 1000)
	env.must(err)
	env.must(billing.RollOver(env.t.Context(), env.db.Pool, due, env.time(), env.time()))
}

// frozen is what a tenant's first period came to for an agent.
func (t *tenant) frozen(agent string) (count, overage int64) {
	t.t.Helper()
	row := t.db.Pool.QueryRow(t.t.Context(), `
select count, overage from period_totals where tenant_id = $1 and agent = $2 order by period_start limit 1`, t.id, agent)
	t.must(row.Scan(&count, &overage))
	return count, overage
}

func TestClosedPeriodNeverChanges(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a := env.november("a")
	a.use("inbox", 510)
	env.set(december.Add(20 * time.Minute))
	env.rollAndClose()
	env.report()
	// Whatever comes now: a better plan, a catalogue, a counter that is wrong.
	env.db.Exec(`update usage_counters set count = 9000`)
	env.db.Exec(`update allowances set "limit" = 1`)
	env.db.Exec(`update agents set unit_price = 77`)
	a.subscribe(billing.SubscriptionChange{PlanID: "price_meetingpilot_monthly", Status: odometer.Active, Start: december, End: december.AddDate(0, 1, 0)})
	for range 3 {
		env.closeNow(0)
		env.expect(env.report(), 0, 0)
		env.advance(time.Hour)
	}
	if count, overage := a.frozen("inbox"); count != 510 || overage != 10 {
		t.Errorf("the closed period has %d, %d over", count, overage)
	}
	a.expectMeterTotal("inbox", 10)
	expectSettled(t, a, true)
}

func TestClosedPeriodKeepsItsPlanAndPrices(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a := env.november("a")
	a.use("inbox", 510)
	env.set(december.Add(time.Minute))
	env.rollOver()
	env.db.Exec(`update allowances set "limit" = 1`)
	env.report()
	a.expectMeterTotal("inbox", 10)
	env.set(december.Add(20 * time.Minute))
	env.closeNow(1)
	if count, overage := a.frozen("inbox"); count != 510 || overage != 10 {
		t.Errorf("the closed period has %d, %d over", count, overage)
	}
}

func TestCloseWaitsForItsGrace(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a := env.november("a")
	a.use("inbox", 510)
	env.set(december.Add(15*time.Minute - time.Second))
	env.rollOver()
	env.closeNow(0)
	a.db.Exec(`update usage_counters set count = 512 where tenant_id = $1`, a.id) // late, but in time
	env.advance(time.Second)
	env.closeNow(1)
	if count, _ := a.frozen("inbox"); count != 512 {
		t.Errorf("the closed period has %d", count)
	}
}

// inPartition makes a tenant whose events lie in a partition of two.
func (env *testEnv) inPartition(partition int) *tenant {
	for i := 0; ; i++ {
		name := fmt.Sprintf("p%d_%d", partition, i)
		if odometer.PartitionOf(uuid.NewSHA1(uuid.NameSpaceOID, []byte(name)), 2) == partition {
			return env.november(name)
		}
	}
}

func (env *testEnv) completeUntil(partition int, at time.Time) {
	env.db.Exec(`update stream_positions set complete_until = $2 where partition = $1`, partition, at)
}

func TestCloseWaitsForTheTenantsOwnPartition(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	env.db.Exec(`insert into stream_positions (partition, stream_epoch, seq, complete_until) values (1, 1, 2000, null)`)
	behind, ahead := env.inPartition(0), env.inPartition(1)
	grace := december.Add(15 * time.Minute)
	env.completeUntil(0, grace.Add(-time.Microsecond))
	env.completeUntil(1, grace)
	env.set(december.Add(time.Hour))
	env.rollOver()
	env.closeNow(1)
	env.expectClosedAt(ahead, 1, 2000)
	env.completeUntil(0, grace)
	env.db.Exec(`update stream_positions set seq = 1234 where partition = 0`)
	env.closeNow(1)
	env.expectClosedAt(behind, 1, 1234)
	env.closeNow(0)
}

// expectClosedAt checks the position up to which events belong to a period.
func (env *testEnv) expectClosedAt(a *tenant, epoch int, seq int64) {
	env.t.Helper()
	var gotEpoch *int
	var gotSeq *int64
	row := env.db.Pool.QueryRow(env.t.Context(), `
select closed_epoch, closed_seq from billing_periods where tenant_id = $1 order by period_start limit 1`, a.id)
	env.must(row.Scan(&gotEpoch, &gotSeq))
	if gotSeq == nil || *gotEpoch != epoch || *gotSeq != seq {
		env.t.Errorf("the first period of %s is closed at %v, %v, want %d, %d", a.customer, gotEpoch, gotSeq, epoch, seq)
	}
}

func TestCloseInOrderPerTenant(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a := env.november("a")
	env.set(december.AddDate(0, 3, 1))
	env.rollOver()
	// The first one cannot close: its terms are not frozen, it seems. Nothing
	// after it may.
	env.completeUntil(0, december.Add(-time.Hour))
	env.closeNow(0)
	env.completeUntil(0, december.AddDate(0, 1, 1))
	env.closeNow(2)
	env.completeUntil(0, env.time())
	env.closeNow(2)
	var disorder int
	row := env.db.Pool.QueryRow(t.Context(), `
select count(*) from billing_periods earlier join billing_periods later using (tenant_id)
where earlier.period_start < later.period_start and earlier.status = 'open' and later.status = 'closed' and tenant_id = $1`, a.id)
	env.must(row.Scan(&disorder))
	if disorder != 0 {
		t.Errorf("%d periods were closed before an earlier one", disorder)
	}
}

// A batch that holds the partition is counted before the close reads, or finds
// the period closed.
func TestPeriodCannotCloseBetweenClassifyAndCount(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a := env.november("a")
	a.use("inbox", 510)
	env.set(december.Add(20 * time.Minute))
	env.rollOver()
	batch, err := env.db.Pool.Begin(t.Context())
	env.must(err)
	defer batch.Rollback(context.Background())
	_, err = batch.Exec(t.Context(), `update stream_positions set seq = 1001 where partition = 0`) // as it classifies
	env.must(err)
	closed := make(chan error, 1)
	go func() {
		_, err := Close(t.Context(), env.db.Pool, env.time(), 15*time.Minute)
		closed <- err
	}()
	env.awaitLockWaiter()
	_, err = batch.Exec(t.Context(), `update usage_counters set count = count + 5 where tenant_id = $1`, a.id) // its count
	env.must(err)
	env.must(batch.Commit(t.Context()))
	env.must(<-closed)
	if count, overage := a.frozen("inbox"); count != 515 || overage != 15 {
		t.Errorf("the closed period has %d, %d over, want 515, 15", count, overage)
	}
	env.expectClosedAt(a, 1, 1001)
}

// awaitWaiting waits until something in the database waits for a lock.
func (env *testEnv) awaitLockWaiter() {
	env.t.Helper()
	for waiting := 0; waiting == 0; {
		row := env.db.Pool.QueryRow(env.t.Context(), `
select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`)
		env.must(row.Scan(&waiting))
	}
}

func TestClosingMakesNoCallToStripe(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a := env.november("a")
	a.use("inbox", 510)
	env.stripe.RecordCalls(true)
	env.set(december.Add(20 * time.Minute))
	env.rollAndClose()
	if calls := env.stripe.Calls(); len(calls) != 0 {
		t.Errorf("calls %v", calls)
	}
	expectSettled(t, a, false)
}
