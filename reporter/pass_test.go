package reporter

import (
	"testing"
	"time"

	"odometer"
	"odometer/billing"
)

func TestStripeIsToldTheDifferenceOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.month("a")
	a.use("inbox", 510)
	w.expect(w.report(), 1, 0)
	a.expectAt("inbox", 10)
	w.expect(w.report(), 0, 0)
	a.use("inbox", 525)
	w.pass(time.Hour)
	w.expect(w.report(), 1, 0)
	a.expectAt("inbox", 25)
}

func TestDecreaseIsTakenBackInThePeriod(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.month("a")
	a.use("invoice", 70)
	w.report()
	a.expectAt("invoice", 20)
	a.use("invoice", 60)
	w.report()
	a.expectAt("invoice", 10)
	a.use("invoice", 10)
	w.report()
	a.expectAt("invoice", 0)
}

func TestClosedPeriodIsToldInItsOwnInvoice(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.month("a")
	a.use("inbox", 510)
	w.set(time.Date(2026, 12, 1, 0, 20, 0, 0, time.UTC))
	w.roll()
	w.expect(w.report(), 1, 0)
	w.pass(2 * time.Hour)
	w.expect(w.report(), 0, 0)
	if got := a.invoiced("inbox"); got != 10 {
		t.Errorf("invoiced %d, want 10", got)
	}
	expectSettled(t, a, true)
}

func TestWhatTheFinalInvoiceLacksIsCarried(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.month("a")
	a.use("inbox", 510)
	w.report()
	a.use("inbox", 530)
	w.set(time.Date(2026, 12, 3, 0, 0, 0, 0, time.UTC)) // its invoice is final
	w.roll()
	w.expect(w.report(), 1, 0)
	expectSettled(t, a, true)
	a.expectAt("inbox", 30)
	w.set(time.Date(2027, 1, 3, 0, 0, 0, 0, time.UTC))
	w.roll()
	w.report()
	if got := a.invoiced("inbox"); got != 30 {
		t.Errorf("invoiced %d over both periods, want 30: %+v", got, a.stripe.Invoices(a.customer))
	}
}

func TestCreditIsCarriedOnlyAsFarAsThereIsOverage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.month("a")
	a.use("inbox", 520)
	w.report()
	a.use("inbox", 505) // corrected, but Stripe hears of it too late
	w.set(time.Date(2026, 12, 3, 0, 0, 0, 0, time.UTC))
	w.roll()
	w.expect(w.report(), 0, 1)
	a.use("inbox", 506) // now there is something to set it against
	w.expect(w.report(), 2, 1)
	a.expectAt("inbox", 20)
	a.use("inbox", 540)
	w.report()
	a.expectAt("inbox", 45)
	w.set(time.Date(2027, 1, 3, 0, 0, 0, 0, time.UTC))
	w.roll()
	w.report()
	if got := a.invoiced("inbox"); got != 45 {
		t.Errorf("invoiced %d, want 45", got)
	}
}

func TestTrialIsNeverBilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.month("a")
	end := begin.AddDate(0, 0, 4)
	a.subscribe(billing.SubscriptionChange{
		PlanID: plan500, Status: odometer.Trial, TrialEndsAt: &end,
		Start: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), End: end,
	})
	a.use("inbox", 5000)
	w.expect(w.report(), 0, 0)
	w.set(end.Add(time.Hour))
	w.roll()
	w.expect(w.report(), 0, 0)
	expectSettled(t, a, true)
}

func TestTenantWithoutCustomerIsParkedAndSaid(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a, b := w.month("a"), w.month("b")
	w.exec(`update subscriptions set stripe_customer = null where tenant_id = $1`, a.id)
	a.use("inbox", 510)
	b.use("inbox", 511)
	result := w.report()
	w.expect(result, 1, 1)
	if left := result.Left[0]; left.State != "parked" || left.Tenant != a.id.String() || left.Units != 10 {
		t.Errorf("left %+v", left)
	}
	b.expectAt("inbox", 11)
}

// expectSettled looks whether the first period of a tenant is settled.
func expectSettled(t *testing.T, a *tenant, want bool) {
	t.Helper()
	var settled bool
	row := a.pool.QueryRow(t.Context(), `select settled_at is not null from billing_periods where tenant_id = $1 order by period_start limit 1`, a.id)
	if err := row.Scan(&settled); err != nil {
		t.Fatal(err)
	}
	if settled != want {
		t.Errorf("settled: %t, want %t", settled, want)
	}
}
