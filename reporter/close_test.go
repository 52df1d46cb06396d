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

// closeNow closes what is due, and looks how many periods that were.
func (w *world) closeNow(want int) {
	w.t.Helper()
	closed, err := Close(w.t.Context(), w.pool, w.time(), 15*time.Minute)
	w.must(err)
	if closed != want {
		w.t.Errorf("at %s %d periods were closed, want %d", w.time().Format(time.DateTime), closed, want)
	}
}

// rollOver lays the periods of all tenants as the clock has them.
func (w *world) rollOver() {
	w.t.Helper()
	due, err := billing.Due(w.t.Context(), w.pool, w.time(), 1000)
	w.must(err)
	w.must(billing.RollOver(w.t.Context(), w.pool, due, w.time(), w.time()))
}

// frozen is what a tenant's first period came to for an agent.
func (t *tenant) frozen(agent string) (count, overage int64) {
	t.t.Helper()
	row := t.pool.QueryRow(t.t.Context(), `
select count, overage from period_totals where tenant_id = $1 and agent = $2 order by period_start limit 1`, t.id, agent)
	t.must(row.Scan(&count, &overage))
	return count, overage
}

func TestClosedPeriodNeverChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.month("a")
	a.use("inbox", 510)
	w.set(december.Add(20 * time.Minute))
	w.roll()
	w.report()
	// Whatever comes now: a better plan, a catalogue, a counter that is wrong.
	w.exec(`update usage_counters set count = 9000`)
	w.exec(`update allowances set "limit" = 1`)
	w.exec(`update agents set unit_price = 77`)
	a.subscribe(billing.SubscriptionChange{PlanID: "price_meetingpilot_monthly", Status: odometer.Active, Start: december, End: december.AddDate(0, 1, 0)})
	for range 3 {
		w.closeNow(0)
		w.expect(w.report(), 0, 0)
		w.pass(time.Hour)
	}
	if count, overage := a.frozen("inbox"); count != 510 || overage != 10 {
		t.Errorf("the closed period has %d, %d over", count, overage)
	}
	a.expectAt("inbox", 10)
	expectSettled(t, a, true)
}

func TestClosedPeriodKeepsTheTermsOfItsEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.month("a")
	a.use("inbox", 510)
	w.set(december.Add(time.Minute))
	w.rollOver()
	w.exec(`update allowances set "limit" = 1`)
	w.report()
	a.expectAt("inbox", 10)
	w.set(december.Add(20 * time.Minute))
	w.closeNow(1)
	if count, overage := a.frozen("inbox"); count != 510 || overage != 10 {
		t.Errorf("the closed period has %d, %d over", count, overage)
	}
}

func TestCloseWaitsForItsGrace(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.month("a")
	a.use("inbox", 510)
	w.set(december.Add(15*time.Minute - time.Second))
	w.rollOver()
	w.closeNow(0)
	a.exec(`update usage_counters set count = 512 where tenant_id = $1`, a.id) // late, but in time
	w.pass(time.Second)
	w.closeNow(1)
	if count, _ := a.frozen("inbox"); count != 512 {
		t.Errorf("the closed period has %d", count)
	}
}

// inPartition makes a tenant whose events lie in a partition of two.
func (w *world) inPartition(partition int) *tenant {
	for i := 0; ; i++ {
		name := fmt.Sprintf("p%d_%d", partition, i)
		if odometer.PartitionOf(uuid.NewSHA1(uuid.NameSpaceOID, []byte(name)), 2) == partition {
			return w.month(name)
		}
	}
}

func (w *world) completeUntil(partition int, at time.Time) {
	w.exec(`update stream_positions set complete_until = $2 where partition = $1`, partition, at)
}

func TestCloseWaitsForTheTenantsOwnPartition(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.exec(`insert into stream_positions (partition, stream_epoch, seq, complete_until) values (1, 1, 2000, null)`)
	behind, ahead := w.inPartition(0), w.inPartition(1)
	grace := december.Add(15 * time.Minute)
	w.completeUntil(0, grace.Add(-time.Microsecond))
	w.completeUntil(1, grace)
	w.set(december.Add(time.Hour))
	w.rollOver()
	w.closeNow(1)
	w.expectClosedAt(ahead, 1, 2000)
	w.completeUntil(0, grace)
	w.exec(`update stream_positions set seq = 1234 where partition = 0`)
	w.closeNow(1)
	w.expectClosedAt(behind, 1, 1234)
	w.closeNow(0)
}

// expectClosedAt looks at the position up to which events belong to a period.
func (w *world) expectClosedAt(a *tenant, epoch int, seq int64) {
	w.t.Helper()
	var gotEpoch *int
	var gotSeq *int64
	row := w.pool.QueryRow(w.t.Context(), `
select closed_epoch, closed_seq from billing_periods where tenant_id = $1 order by period_start limit 1`, a.id)
	w.must(row.Scan(&gotEpoch, &gotSeq))
	if gotSeq == nil || *gotEpoch != epoch || *gotSeq != seq {
		w.t.Errorf("the first period of %s is closed at %v, %v, want %d, %d", a.customer, gotEpoch, gotSeq, epoch, seq)
	}
}

func TestCloseInOrderPerTenant(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.month("a")
	w.set(december.AddDate(0, 3, 1))
	w.rollOver()
	// The first one cannot close: its terms are not frozen, it seems. Nothing
	// after it may.
	w.completeUntil(0, december.Add(-time.Hour))
	w.closeNow(0)
	w.completeUntil(0, december.AddDate(0, 1, 1))
	w.closeNow(2)
	w.completeUntil(0, w.time())
	w.closeNow(2)
	var disorder int
	row := w.pool.QueryRow(t.Context(), `
select count(*) from billing_periods earlier join billing_periods later using (tenant_id)
where earlier.period_start < later.period_start and earlier.status = 'open' and later.status = 'closed' and tenant_id = $1`, a.id)
	w.must(row.Scan(&disorder))
	if disorder != 0 {
		t.Errorf("%d periods were closed before an earlier one", disorder)
	}
}

// A batch that holds the partition is counted before the close looks, or finds
// the period closed.
func TestPeriodCannotCloseBetweenLookAndCount(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.month("a")
	a.use("inbox", 510)
	w.set(december.Add(20 * time.Minute))
	w.rollOver()
	batch, err := w.pool.Begin(t.Context())
	w.must(err)
	defer batch.Rollback(context.Background())
	_, err = batch.Exec(t.Context(), `update stream_positions set seq = 1001 where partition = 0`) // its look
	w.must(err)
	closed := make(chan error, 1)
	go func() {
		_, err := Close(t.Context(), w.pool, w.time(), 15*time.Minute)
		closed <- err
	}()
	w.awaitWaiting()
	_, err = batch.Exec(t.Context(), `update usage_counters set count = count + 5 where tenant_id = $1`, a.id) // its count
	w.must(err)
	w.must(batch.Commit(t.Context()))
	w.must(<-closed)
	if count, overage := a.frozen("inbox"); count != 515 || overage != 15 {
		t.Errorf("the closed period has %d, %d over, want 515, 15", count, overage)
	}
	w.expectClosedAt(a, 1, 1001)
}

// awaitWaiting waits until something in the database waits for a lock.
func (w *world) awaitWaiting() {
	w.t.Helper()
	for waiting := 0; waiting == 0; {
		row := w.pool.QueryRow(w.t.Context(), `
select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`)
		w.must(row.Scan(&waiting))
	}
}

func TestClosingAsksNothingOfStripe(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.month("a")
	a.use("inbox", 510)
	w.stripe.RecordCalls(true)
	w.set(december.Add(20 * time.Minute))
	w.roll()
	if calls := w.stripe.Calls(); len(calls) != 0 {
		t.Errorf("calls %v", calls)
	}
	expectSettled(t, a, false)
}
