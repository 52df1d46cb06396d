package stripetest

import (
	"slices"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v76"
)

// record sends a legacy usage record.
func (s *testEnv) record(action string, quantity int64, at time.Time) error {
	_, err := s.stripe.UsageRecords.New(&stripe.UsageRecordParams{SubscriptionItem: stripe.String("si_legacy"),
		Action: stripe.String(action), Quantity: stripe.Int64(quantity), Timestamp: stripe.Int64(at.Unix())})
	return err
}

func TestSetOverwritesAndIncrementAdds(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	s.subscribe(nil)
	s.clock.move(time.Hour)
	must(t, s.record("set", 5, start))
	must(t, s.record("set", 3, start))
	must(t, s.record("increment", 2, start.Add(time.Minute)))
	must(t, s.record("increment", 2, start.Add(time.Minute)))
	want(t, "total", s.UsageRecordTotal("si_legacy", start, monthEnd), 7)
	s.clock.set(monthEnd)
	want(t, "invoiced", quantity(s.Invoices(acme)[0], "legacy"), 7)
}

func TestUsageRecordsLieInTheCurrentPeriod(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	s.subscribe(nil)
	wantError(t, s.record("set", 1, start.Add(-time.Second)), 400, badRequest, "")
	wantError(t, s.record("set", 1, start.Add(time.Second)), 400, badRequest, "")
	s.clock.set(monthEnd)
	message := wantError(t, s.record("set", 1, monthEnd.Add(-time.Second)), 400, badRequest, "")
	want(t, "text", message, "Cannot create the usage record with this timestamp because timestamps must be after the subscription's last invoice period (or current period start time).")
	must(t, s.record("set", 1, monthEnd))
}

func TestUsageRecordSummariesGoByPeriod(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	s.subscribe(nil)
	must(t, s.record("set", 5, start))
	s.clock.set(monthEnd)
	must(t, s.record("set", 3, monthEnd))
	i := s.stripe.UsageRecordSummaries.List(&stripe.UsageRecordSummaryListParams{SubscriptionItem: stripe.String("si_legacy")})
	var totals []int64
	for i.Next() {
		totals = append(totals, i.UsageRecordSummary().TotalUsage)
	}
	must(t, i.Err())
	if !slices.Equal(totals, []int64{3, 5}) {
		t.Fatalf("got %v, want [3 5]", totals)
	}
}

func TestAMeteredPriceTakesNoUsageRecords(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	s.subscribe(nil)
	_, err := s.stripe.UsageRecords.New(&stripe.UsageRecordParams{SubscriptionItem: stripe.String("si_sub_acme_2"),
		Quantity: stripe.Int64(1)})
	wantError(t, err, 400, badRequest, "")
}
