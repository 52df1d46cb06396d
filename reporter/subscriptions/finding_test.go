package subscriptions

import (
	"strings"
	"testing"

	"github.com/google/uuid"

	"odometer"
	"odometer/billing"
	"odometer/reporter/stripetest"
)

func (w *world) wantDetail(kind string, has ...string) {
	w.t.Helper()
	details := w.texts(`select detail || ' ' || coalesce(tenant_id::text, '') from audit_findings where kind = $1`, kind)
	for _, text := range has {
		if len(details) != 1 || !strings.Contains(details[0], text) {
			w.t.Errorf("finding %s: %q, want one with %q", kind, details, text)
		}
	}
}

func TestASecondSubscriptionIsFoundAndReplacesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.subscribe("1", acme, inbox, nil)
	w.follow()
	w.at("2026-11-10")
	w.stripe.CreateSubscription(stripetest.Subscription{ID: "sub_2", Customer: "cus_1", Items: []stripetest.Item{{PriceID: bundle}}})
	w.follow()
	want := []string{"active price_inboxpilot_monthly month sub_1", "2026-11-01 2026-12-01"}
	w.wantAgreed(want...)
	w.wantFindings("second_subscription sub_2")
	w.wantDetail(KindSecondSubscription, "sub_1", "sub_2", acme)
	if c := w.compare(); c != (Compared{Looked: 2, Findings: 1}) {
		t.Errorf("compared %+v", c)
	}
	w.wantAgreed(want...)

	w.at("2026-11-12")
	w.stripe.CancelSubscription("sub_1", false)
	w.follow() // the word of the first one's end brings the second in
	w.wantAgreed("active price_bundle_monthly month sub_2", "2026-11-01 2026-11-10", "2026-11-10 2026-12-10")
	w.wantFindings()
	if c := w.compare(); c != (Compared{Looked: 2}) {
		t.Errorf("compared %+v", c)
	}
}

func TestASecondSubscriptionThatEndsChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.subscribe("1", acme, inbox, nil)
	w.follow()
	w.stripe.CreateSubscription(stripetest.Subscription{ID: "sub_2", Customer: "cus_1", Items: []stripetest.Item{{PriceID: bundle}}})
	w.follow()
	w.stripe.CancelSubscription("sub_2", false)
	w.follow()
	w.wantAgreed("active price_inboxpilot_monthly month sub_1", "2026-11-01 2026-12-01")
	w.wantFindings()
}

func TestANewSubscriptionFollowsOneThatHasEnded(t *testing.T) {
	t.Parallel()
	for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {2}, {}} { // of the hooks: created, deleted, created
		w := newWorld(t, "2026-11-01")
		w.subscribe("1", acme, inbox, nil)
		w.at("2026-11-10")
		w.stripe.CancelSubscription("sub_1", false)
		w.at("2026-11-20")
		w.stripe.CreateSubscription(stripetest.Subscription{ID: "sub_2", Customer: "cus_1", Items: []stripetest.Item{{PriceID: bundle}}})
		hooks := w.take()
		for _, i := range order {
			w.deliver(hooks[i])
			w.work()
		}
		w.compare()
		got := w.agreed(acme)
		if got[0] != "active price_bundle_monthly month sub_2" || got[len(got)-1] != "2026-11-20 2026-12-20" {
			t.Errorf("order %v: %q", order, got)
		}
		w.wantFindings()
	}
}

func TestAPeriodOfNoLengthIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.subscribe("1", acme, bundle, nil)
	w.editSubscriptions(func(o map[string]any) { delete(o, "current_period_start"); delete(o, "current_period_end") })
	w.follow()
	w.wantAgreed()
	w.wantFindings("zero_period sub_1")
	if c := w.compare(); c != (Compared{Looked: 1, Findings: 1}) {
		t.Errorf("compared %+v", c)
	}
	w.wantAgreed()
	w.editSubscriptions(nil)
	w.compare()
	w.wantAgreed("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01")
	w.wantFindings()
	w.want("resolved", w.texts(`select resolved_by || ': ' || kind from audit_findings`), "subscriptions: zero_period")
}

func TestAPriceThatIsNoPlanIsFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.subscribe("1", acme, "price_gone_wrong", nil)
	w.follow()
	w.wantAgreed()
	w.wantFindings("unknown_price sub_1")
	w.wantDetail(KindUnknownPrice, "price_gone_wrong", acme)
	w.update("1", func(s *stripetest.Subscription) { s.Items[1].PriceID = bundle })
	w.follow()
	w.wantFindings()
	w.wantAgreed("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01")

	w.update("1", func(s *stripetest.Subscription) { s.Items[1].PriceID = "price_gone_wrong" })
	w.follow()
	w.wantFindings("unknown_price sub_1")
	w.wantAgreed("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01")
	w.at("2026-11-05")
	w.stripe.CancelSubscription("sub_1", false) // an end counts whatever the price
	w.follow()
	w.wantFindings()
	w.wantAgreed("canceled price_bundle_monthly none sub_1", "2026-11-01 2026-11-05")
}

func TestOtherProductsAreNotOurs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.stripe.CreateCustomer("cus_stranger", nil)
	w.stripe.CreateSubscription(stripetest.Subscription{ID: "sub_s", Customer: "cus_stranger", Items: []stripetest.Item{{PriceID: "price_book"}}})
	w.subscribe("1", acme, bundle, nil)
	w.follow()
	w.stripe.CreateSubscription(stripetest.Subscription{ID: "sub_2", Customer: "cus_1", Items: []stripetest.Item{{PriceID: "price_support"}}})
	w.follow()
	w.wantFindings()
	if c := w.compare(); c != (Compared{Looked: 3}) {
		t.Errorf("compared %+v", c)
	}
}

func TestACustomerWithoutATenantIsFoundUntilMapped(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.stripe.CreateCustomer("cus_1", nil)
	w.stripe.CreateSubscription(stripetest.Subscription{ID: "sub_1", Customer: "cus_1", Items: []stripetest.Item{{PriceID: bundle}}})
	w.follow()
	w.wantFindings("unknown_customer sub_1")
	w.wantDetail(KindUnknownCustomer, "odometer subscription set --tenant", "--stripe-customer cus_1")
	customer := "cus_1"
	_, err := billing.Set(t.Context(), w.pool, billing.SubscriptionChange{
		Tenant: uuid.MustParse(acme), PlanID: inbox, Status: odometer.Active, Interval: odometer.Monthly,
		Start: day("2026-11-01"), End: day("2026-12-01"), StripeCustomer: &customer,
	}, w.now())
	if err != nil {
		t.Fatal(err)
	}
	w.compare()
	w.wantFindings()
	w.wantAgreed("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01")
}

func TestTheSubscriptionsTenantGoesBeforeTheCustomers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.subscribe("1", uuid.NewString(), bundle, func(s *stripetest.Subscription) { s.Metadata = map[string]string{"tenant_id": acme} })
	w.follow()
	w.wantAgreed("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01")
}

func TestATenantIDThatIsNoneIsFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.subscribe("1", strings.ToUpper(acme), bundle, nil)
	w.follow()
	w.wantAgreed()
	w.wantFindings("bad_tenant_id sub_1")
	w.stripe.CreateCustomer("cus_1", map[string]string{"tenant_id": acme})
	w.compare()
	w.wantAgreed("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01")
	w.wantFindings()
}

func TestASubscriptionIsNotTwoTenants(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.subscribe("1", acme, bundle, nil)
	w.follow()
	other := uuid.NewString()
	w.stripe.CreateCustomer("cus_1", map[string]string{"tenant_id": other})
	w.compare()
	w.wantFindings("tenant_changed sub_1")
	w.want("the other's", w.agreed(other))
	w.wantAgreed("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01")
}

func TestWhatTheRulesRefuseIsFoundAndDone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.subscribe("1", acme, bundle, func(s *stripetest.Subscription) { s.Interval = "day" })
	w.editSubscriptions(func(o map[string]any) { // fifteen years of days
		o["current_period_start"], o["current_period_end"] = day("2011-11-01").Unix(), day("2011-11-02").Unix()
	})
	w.follow()
	w.wantAgreed()
	w.wantFindings("subscription_refused sub_1")
	w.want("outcomes", w.texts(`select outcome from stripe_hooks where done_at is not null`), "finding subscription_refused")
	w.editSubscriptions(nil)
	w.compare()
	w.wantFindings()
}

func TestWhatStripeNoLongerHasIsFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	gone := "sub_gone"
	_, err := billing.Set(t.Context(), w.pool, billing.SubscriptionChange{
		Tenant: uuid.MustParse(acme), PlanID: inbox, Status: odometer.Active, Interval: odometer.Monthly,
		Start: day("2026-11-01"), End: day("2026-12-01"), StripeSubscription: &gone,
	}, w.now())
	if err != nil {
		t.Fatal(err)
	}
	if c := w.compare(); c != (Compared{Findings: 1}) {
		t.Errorf("compared %+v", c)
	}
	w.wantFindings("subscription_gone sub_gone")
	w.deliver(hookOf("customer.subscription.updated", "sub_never"), hookOf("invoice.created", "in_never"))
	w.work()
	w.wantFindings("subscription_gone sub_gone", "subscription_gone sub_never")
	w.want("outcomes", w.texts(`select outcome from stripe_hooks order by object_id`), "Stripe has no such invoice", "finding subscription_gone")
	w.wantAgreed("active price_inboxpilot_monthly month sub_gone", "2026-11-01 2026-12-01")
}

func TestADeletedCustomersSubscriptionIsCanceled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.subscribe("1", acme, bundle, nil)
	w.follow()
	w.at("2026-11-10")
	w.stripe.DeleteCustomer("cus_1")
	deleted := func(o map[string]any) {
		if _, expanded := o["customer"].(map[string]any); expanded {
			o["customer"] = map[string]any{"id": "cus_1", "object": "customer", "deleted": true}
		}
	}
	w.editSubscriptions(deleted)
	w.follow()
	w.wantAgreed("canceled price_bundle_monthly month sub_1", "2026-11-01 2026-11-10")
	w.wantFindings()

	w.editSubscriptions(func(o map[string]any) { deleted(o); o["status"] = "active" })
	w.compare()
	w.wantFindings("customer_deleted sub_1")
	w.wantAgreed("canceled price_bundle_monthly month sub_1", "2026-11-01 2026-11-10")
}

func TestOfTwoThatHaveEndedTheLaterOneStands(t *testing.T) {
	t.Parallel()
	for _, order := range [][]int{{0, 1, 2, 3}, {3, 2, 1, 0}, {0}, {}} {
		w := newWorld(t, "2026-11-01")
		w.subscribe("1", acme, inbox, nil)
		w.at("2026-11-10")
		w.stripe.CancelSubscription("sub_1", false)
		w.at("2026-11-20")
		w.stripe.CreateSubscription(stripetest.Subscription{ID: "sub_2", Customer: "cus_1", Items: []stripetest.Item{{PriceID: bundle}}})
		w.at("2026-11-24")
		w.stripe.CancelSubscription("sub_2", false)
		hooks := w.take()
		for _, i := range order {
			w.deliver(hooks[i])
			w.work()
		}
		w.compare()
		got := w.agreed(acme)
		if got[0] != "canceled price_bundle_monthly month sub_2" || got[len(got)-1] != "2026-11-20 2026-11-24" {
			t.Errorf("order %v: %q", order, got)
		}
	}
}

func TestWhatEndedBeforeAnyEventCanCountIsNotTakenIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-03-01")
	w.subscribe("1", acme, inbox, nil)
	w.at("2026-03-10")
	w.stripe.CancelSubscription("sub_1", false)
	w.at("2026-11-01")
	w.follow()
	w.compare()
	w.wantAgreed()
	w.wantFindings()
}
