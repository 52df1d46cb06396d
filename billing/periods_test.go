package billing

import (
	"errors"
	"testing"

	"odometer"
)

// Stripe says of a subscription that has ended, or lags behind its next
// period, what its last period was. That may have been closed by then.
func TestAClosedPeriodMayBeGivenAgainUnchanged(t *testing.T) {
	t.Parallel()
	for _, interval := range []odometer.Interval{odometer.Once, odometer.Monthly} {
		pool := withSample(t)
		a := bundle("2026-10-01", "2026-11-01")
		a.Interval = interval
		before := set(t, pool, a, "2026-11-02")
		exec(t, pool, `update billing_periods set status = 'closed', closed_epoch = 1, closed_seq = 9, closed_at = now() where period_start = $1`, day("2026-10-01"))

		a.PlanID = "price_inboxpilot_monthly"
		wantSpans(t, set(t, pool, a, "2026-11-02"), before...)
		after := loadAcme(t, pool)
		if after.Subscription.PlanID != a.PlanID || after.Periods[0].PlanID != "price_bundle_monthly" {
			t.Errorf("%s: plan %s, that of the closed period %s", interval, after.Subscription.PlanID, after.Periods[0].PlanID)
		}

		a.Status = odometer.Canceled
		_, err := Set(t.Context(), pool, a, day("2026-11-02"))
		if running := interval == odometer.Monthly; errors.Is(err, ErrRefused) != running {
			t.Errorf("%s: canceled at the end of the closed period: %v, want a refusal %v", interval, err, running)
		}
		wantSpans(t, spans(loadAcme(t, pool)), before...)
	}
}
