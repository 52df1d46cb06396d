package reporter

import (
	"testing"
	"time"

	"odometer"
	"odometer/billing"
)

func TestDifferenceIsReportedOnce(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a := env.november("a")
	a.use("inbox", 510)
	env.expect(env.report(), 1, 0)
	a.expectMeterTotal("inbox", 10)
	env.expect(env.report(), 0, 0)
	a.use("inbox", 525)
	env.advance(time.Hour)
	env.expect(env.report(), 1, 0)
	a.expectMeterTotal("inbox", 25)
}

func TestDecreaseIsCreditedInThePeriod(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a := env.november("a")
	a.use("invoice", 70)
	env.report()
	a.expectMeterTotal("invoice", 20)
	a.use("invoice", 60)
	env.report()
	a.expectMeterTotal("invoice", 10)
	a.use("invoice", 10)
	env.report()
	a.expectMeterTotal("invoice", 0)
}

func TestClosedPeriodIsBilledInItsOwnInvoice(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a := env.november("a")
	a.use("inbox", 510)
	env.set(time.Date(2026, 12, 1, 0, 20, 0, 0, time.UTC))
	env.rollAndClose()
	env.expect(env.report(), 1, 0)
	env.advance(2 * time.Hour)
	env.expect(env.report(), 0, 0)
	if got := a.invoiced("inbox"); got != 10 {
		t.Errorf("invoiced %d, want 10", got)
	}
	expectSettled(t, a, true)
}

func TestWhatTheFinalInvoiceLacksIsCarried(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a := env.november("a")
	a.use("inbox", 510)
	env.report()
	a.use("inbox", 530)
	env.set(time.Date(2026, 12, 3, 0, 0, 0, 0, time.UTC)) // its invoice is final
	env.rollAndClose()
	env.expect(env.report(), 1, 0)
	expectSettled(t, a, true)
	a.expectMeterTotal("inbox", 30)
	env.set(time.Date(2027, 1, 3, 0, 0, 0, 0, time.UTC))
	env.rollAndClose()
	env.report()
	if got := a.invoiced("inbox"); got != 30 {
		t.Errorf("invoiced %d over both periods, want 30: %+v", got, a.stripe.Invoices(a.customer))
	}
}

func TestCreditIsCarriedOnlyAsFarAsThereIsOverage(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a := env.november("a")
	a.use("inbox", 520)
	env.report()
	a.use("inbox", 505) // corrected, but Stripe hears of it too late
	env.set(time.Date(2026, 12, 3, 0, 0, 0, 0, time.UTC))
	env.rollAndClose()
	env.expect(env.report(), 0, 1)
	a.use("inbox", 506) // now there is something to set it against
	env.expect(env.report(), 2, 1)
	a.expectMeterTotal("inbox", 20)
	a.use("inbox", 540)
	env.report()
	a.expectMeterTotal("inbox", 45)
	env.set(time.Date(2027, 1, 3, 0, 0, 0, 0, time.UTC))
	env.rollAndClose()
	env.report()
	if got := a.invoiced("inbox"); got != 45 {
		t.Errorf("invoiced %d, want 45", got)
	}
}

func TestTrialIsNeverBilled(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a := env.november("a")
	end := begin.AddDate(0, 0, 4)
	a.subscribe(billing.SubscriptionChange{
		PlanID: plan500, Status: odometer.Trial, TrialEndsAt: &end,
		Start: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), End: end,
	})
	a.use("inbox", 5000)
	env.expect(env.report(), 0, 0)
	env.set(end.Add(time.Hour))
	env.rollAndClose()
	env.expect(env.report(), 0, 0)
	expectSettled(t, a, true)
}

func TestTenantWithoutCustomerIsParkedAndAFinding(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a, b := env.november("a"), env.november("b")
	env.db.Exec(`update subscriptions set stripe_customer = null where tenant_id = $1`, a.id)
	a.use("inbox", 510)
	b.use("inbox", 511)
	result := env.report()
	env.expect(result, 1, 1)
	if left := result.Left[0]; left.State != "parked" || left.Tenant != a.id || left.Units != 10 {
		t.Errorf("left %+v", left)
	}
	b.expectMeterTotal("inbox", 11)
}

// expectSettled checks whether the first period of a tenant is settled.
func expectSettled(t *testing.T, a *tenant, want bool) {
	t.Helper()
	var settled bool
	row := a.db.Pool.QueryRow(t.Context(), `select settled_at is not null from billing_periods where tenant_id = $1 order by period_start limit 1`, a.id)
	if err := row.Scan(&settled); err != nil {
		t.Fatal(err)
	}
	if settled != want {
		t.Errorf("settled: %t, want %t", settled, want)
	}
}
