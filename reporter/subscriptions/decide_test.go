package subscriptions

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stripe/stripe-go/v76"

	"odometer"
	"odometer/billing"
)

// nov is a monthly subscription to the bundle for November, as Stripe's API
// version 2023-10-16 answers.
func nov(change func(*stripe.Subscription)) *stripe.Subscription {
	sub := &stripe.Subscription{
		ID: "sub_1", Customer: &stripe.Customer{ID: "cus_1"}, Status: stripe.SubscriptionStatusActive,
		CurrentPeriodStart: day("2026-11-01").Unix(), CurrentPeriodEnd: day("2026-12-01").Unix(),
		Items: &stripe.SubscriptionItemList{Data: []*stripe.SubscriptionItem{
			{Price: &stripe.Price{ID: "inbox_overage"}},
			{Price: &stripe.Price{ID: bundle, Recurring: &stripe.PriceRecurring{Interval: "month", IntervalCount: 1}}},
		}},
	}
	if change != nil {
		change(sub)
	}
	return sub
}

func wanted(change func(*billing.SubscriptionChange)) billing.SubscriptionChange {
	a := billing.SubscriptionChange{
		PlanID: bundle, Status: odometer.Active, Interval: odometer.Monthly, Start: day("2026-11-01"), End: day("2026-12-01"),
		StripeCustomer: stripe.String("cus_1"), StripeSubscription: stripe.String("sub_1"),
	}
	if change != nil {
		change(&a)
	}
	return a
}

func TestStripeSubscriptionToChange(t *testing.T) {
	t.Parallel()
	unix := func(s string) int64 { return day(s).Unix() }
	mid := day("2026-11-10")
	recurring := func(s *stripe.Subscription) *stripe.PriceRecurring { return s.Items.Data[1].Price.Recurring }
	cases := map[string]struct {
		is   func(*stripe.Subscription)
		want func(*billing.SubscriptionChange)
	}{
		"active":                  {nil, nil},
		"past due":                {func(s *stripe.Subscription) { s.Status = "past_due" }, func(change *billing.SubscriptionChange) { change.Status = odometer.PastDue }},
		"unpaid is past due":      {func(s *stripe.Subscription) { s.Status = "unpaid" }, func(change *billing.SubscriptionChange) { change.Status = odometer.PastDue }},
		"every three months":      {func(s *stripe.Subscription) { recurring(s).IntervalCount = 3 }, func(change *billing.SubscriptionChange) { change.Interval = odometer.Once }},
		"every week":              {func(s *stripe.Subscription) { recurring(s).Interval = "week" }, func(change *billing.SubscriptionChange) { change.Interval = odometer.Weekly }},
		"every year":              {func(s *stripe.Subscription) { recurring(s).Interval = "year" }, func(change *billing.SubscriptionChange) { change.Interval = odometer.Yearly }},
		"cancels at period end":   {func(s *stripe.Subscription) { s.CancelAtPeriodEnd = true }, func(change *billing.SubscriptionChange) { change.Interval = odometer.Once }},
		"cancels in a later one":  {func(s *stripe.Subscription) { s.CancelAt = unix("2026-12-24") }, nil},
		"cancels within this one": {func(s *stripe.Subscription) { s.CancelAt = unix("2026-11-10") }, func(change *billing.SubscriptionChange) { change.Interval, change.End = odometer.Once, mid }},
		"past due, will cancel": {func(s *stripe.Subscription) { s.Status, s.CancelAtPeriodEnd = "past_due", true },
			func(change *billing.SubscriptionChange) {
				change.Status, change.Interval = odometer.PastDue, odometer.Once
			}},
		"canceled at once": {func(s *stripe.Subscription) { s.Status, s.EndedAt, s.CanceledAt = "canceled", unix("2026-11-10"), 1 },
			func(change *billing.SubscriptionChange) { change.Status, change.End = odometer.Canceled, mid }},
		"canceled, without an end": {func(s *stripe.Subscription) { s.Status, s.CanceledAt = "canceled", unix("2026-11-10") },
			func(change *billing.SubscriptionChange) { change.Status, change.End = odometer.Canceled, mid }},
		"canceled after its end": {func(s *stripe.Subscription) { s.Status, s.EndedAt = "canceled", unix("2026-12-01")+60 },
			func(change *billing.SubscriptionChange) { change.Status = odometer.Canceled }},
		"canceled as it began": {func(s *stripe.Subscription) { s.Status, s.EndedAt = "canceled", unix("2026-11-01") },
			func(change *billing.SubscriptionChange) {
				change.Status, change.End = odometer.Canceled, *unixTime(unix("2026-11-01") + 1)
			}},
		"never paid": {func(s *stripe.Subscription) { s.Status, s.EndedAt = "incomplete_expired", unix("2026-11-10") },
			func(change *billing.SubscriptionChange) { change.Status, change.End = odometer.Expired, mid }},
		"trial": {func(s *stripe.Subscription) {
			s.Status, s.TrialStart, s.TrialEnd, s.CurrentPeriodEnd = "trialing", unix("2026-11-01"), unix("2026-11-10"), unix("2026-11-10")
		}, func(change *billing.SubscriptionChange) {
			change.Status, change.TrialEndsAt, change.End = odometer.Trial, &mid, mid
		}},
		"paused in the period after the trial": {func(s *stripe.Subscription) {
			s.Status, s.TrialStart, s.TrialEnd, s.CurrentPeriodStart = "paused", unix("2026-11-01"), unix("2026-11-10"), unix("2026-11-10")
		}, func(change *billing.SubscriptionChange) {
			change.Status, change.TrialEndsAt, change.End = odometer.Expired, &mid, mid
		}},
		"paused with the trial as its period": {func(s *stripe.Subscription) {
			s.Status, s.TrialStart, s.TrialEnd, s.CurrentPeriodEnd = "paused", unix("2026-11-01"), unix("2026-11-10"), unix("2026-11-10")
		}, func(change *billing.SubscriptionChange) {
			change.Status, change.TrialEndsAt, change.End = odometer.Expired, &mid, mid
		}},
	}
	for name, c := range cases {
		got, err := changeOf(nov(c.is), map[string]bool{bundle: true})
		if diff := cmp.Diff(wanted(c.want), got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
}

func TestStripeSubscriptionWithoutChange(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		is   func(*stripe.Subscription)
		want error
	}{
		"not paid yet":             {func(s *stripe.Subscription) { s.Status = "incomplete" }, errIncomplete},
		"a status of the future":   {func(s *stripe.Subscription) { s.Status = "dormant" }, errIncomplete},
		"no period":                {func(s *stripe.Subscription) { s.CurrentPeriodStart, s.CurrentPeriodEnd = 0, 0 }, errNoPeriod},
		"no start":                 {func(s *stripe.Subscription) { s.CurrentPeriodStart = 0 }, errNoPeriod},
		"a period of no length":    {func(s *stripe.Subscription) { s.CurrentPeriodStart = s.CurrentPeriodEnd }, errNoPeriod},
		"a period that runs back":  {func(s *stripe.Subscription) { s.CurrentPeriodEnd = s.CurrentPeriodStart - 1 }, errNoPeriod},
		"no price of ours":         {func(s *stripe.Subscription) { s.Items.Data = s.Items.Data[:1] }, errNoPlan},
		"no items":                 {func(s *stripe.Subscription) { s.Items = nil }, errNoPlan},
		"the item of ours deleted": {func(s *stripe.Subscription) { s.Items.Data[1].Deleted = true }, errNoPlan},
	}
	for name, c := range cases {
		if _, err := changeOf(nov(c.is), map[string]bool{bundle: true}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// An endpoint of a newer API version has the period at the items, so that the
// pinned library reads none.
func TestPeriodOfNewerAPIVersionIsMissing(t *testing.T) {
	t.Parallel()
	var sub stripe.Subscription
	err := json.Unmarshal([]byte(`{"id":"sub_1","status":"active","items":{"data":[
		{"current_period_start":1793491200,"current_period_end":1796083200,"price":{"id":"price_bundle_monthly"}}]}}`), &sub)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := changeOf(&sub, map[string]bool{bundle: true}); !errors.Is(err, errNoPeriod) {
		t.Errorf("%v, want %v", err, errNoPeriod)
	}
}
