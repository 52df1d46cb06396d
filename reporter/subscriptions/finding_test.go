package subscriptions

import (
	"strings"
	"testing"

	"github.com/google/uuid"

	"odometer"
	"odometer/billing"
	"odometer/reporter/stripetest"
)

func (env *testEnv) wantDetail(kind string, has ...string) {
	env.t.Helper()
	details := env.db.Texts(`select detail || ' ' || coalesce(tenant_id::text, '') from audit_findings where kind = $1`, kind)
	for _, text := range has {
		if len(details) != 1 || !strings.Contains(details[0], text) {
			env.t.Errorf("finding %s: %q, want one with %q", kind, details, text)
		}
	}
}

func TestSecondSubscriptionIsAFindingAndReplacesNothing(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.subscribe("1", acme, inbox, nil)
	env.follow()
	env.at("2026-11-10")
	env.stripe.CreateSubscription(stripetest.Subscription{ID: "sub_2", Customer: "cus_1", Items: []stripetest.Item{{PriceID: bundle}}})
	env.follow()
	want := []string{"active price_inboxpilot_monthly month sub_1", "2026-11-01 2026-12-01"}
	env.wantSubscriptions(want...)
	env.wantFindings("second_subscription sub_2")
	env.wantDetail(KindSecondSubscription, "sub_1", "sub_2", acme)
	if c := env.compare(); c != (Compared{Listed: 2, Findings: 1}) {
		t.Errorf("compared %+v", c)
	}
	env.wantSubscriptions(want...)

	env.at("2026-11-12")
	env.stripe.CancelSubscription("sub_1", false)
	env.follow() // the word of the first one's end brings the second in
	env.wantSubscriptions("active price_bundle_monthly month sub_2", "2026-11-01 2026-11-10", "2026-11-10 2026-12-10")
	env.wantFindings()
	if c := env.compare(); c != (Compared{Listed: 2}) {
		t.Errorf("compared %+v", c)
	}
}

func TestASecondSubscriptionThatEndsChangesNothing(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.subscribe("1", acme, inbox, nil)
	env.follow()
	env.stripe.CreateSubscription(stripetest.Subscription{ID: "sub_2", Customer: "cus_1", Items: []stripetest.Item{{PriceID: bundle}}})
	env.follow()
	env.stripe.CancelSubscription("sub_2", false)
	env.follow()
	env.wantSubscriptions("active price_inboxpilot_monthly month sub_1", "2026-11-01 2026-12-01")
	env.wantFindings()
}

func TestANewSubscriptionFollowsOneThatHasEnded(t *testing.T) {
	t.Parallel()
	for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {2}, {}} { // of the hooks: created, deleted, created
		env := newTestEnv(t, "2026-11-01")
		env.subscribe("1", acme, inbox, nil)
		env.at("2026-11-10")
		env.stripe.CancelSubscription("sub_1", false)
		env.at("2026-11-20")
		env.stripe.CreateSubscription(stripetest.Subscription{ID: "sub_2", Customer: "cus_1", Items: []stripetest.Item{{PriceID: bundle}}})
		hooks := env.take()
		for _, i := range order {
			env.deliver(hooks[i])
			env.work()
		}
		env.compare()
		got := env.subscriptionsOf(acme)
		if got[0] != "active price_bundle_monthly month sub_2" || got[len(got)-1] != "2026-11-20 2026-12-20" {
			t.Errorf("order %v: %q", order, got)
		}
		env.wantFindings()
	}
}

func TestAPeriodOfNoLengthIsRefused(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.subscribe("1", acme, bundle, nil)
	env.editSubscriptions(func(o map[string]any) { delete(o, "current_period_start"); delete(o, "current_period_end") })
	env.follow()
	env.wantSubscriptions()
	env.wantFindings("zero_period sub_1")
	if c := env.compare(); c != (Compared{Listed: 1, Findings: 1}) {
		t.Errorf("compared %+v", c)
	}
	env.wantSubscriptions()
	env.editSubscriptions(nil)
	env.compare()
	env.wantSubscriptions("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01")
	env.wantFindings()
	env.want("resolved", env.db.Texts(`select resolved_by || ': ' || kind from audit_findings`), "subscriptions: zero_period")
}

func TestUnknownPriceIsAFinding(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.subscribe("1", acme, "price_gone_wrong", nil)
	env.follow()
	env.wantSubscriptions()
	env.wantFindings("unknown_price sub_1")
	env.wantDetail(KindUnknownPrice, "price_gone_wrong", acme)
	env.update("1", func(s *stripetest.Subscription) { s.Items[1].PriceID = bundle })
	env.follow()
	env.wantFindings()
	env.wantSubscriptions("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01")

	env.update("1", func(s *stripetest.Subscription) { s.Items[1].PriceID = "price_gone_wrong" })
	env.follow()
	env.wantFindings("unknown_price sub_1")
	env.wantSubscriptions("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01")
	env.at("2026-11-05")
	env.stripe.CancelSubscription("sub_1", false) // an end counts whatever the price
	env.follow()
	env.wantFindings()
	env.wantSubscriptions("canceled price_bundle_monthly none sub_1", "2026-11-01 2026-11-05")
}

func TestOtherProductsAreIgnored(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.stripe.CreateCustomer("cus_stranger", nil)
	env.stripe.CreateSubscription(stripetest.Subscription{ID: "sub_s", Customer: "cus_stranger", Items: []stripetest.Item{{PriceID: "price_book"}}})
	env.subscribe("1", acme, bundle, nil)
	env.follow()
	env.stripe.CreateSubscription(stripetest.Subscription{ID: "sub_2", Customer: "cus_1", Items: []stripetest.Item{{PriceID: "price_support"}}})
	env.follow()
	env.wantFindings()
	if c := env.compare(); c != (Compared{Listed: 3}) {
		t.Errorf("compared %+v", c)
	}
}

func TestCustomerWithoutTenantIsAFindingUntilMapped(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.stripe.CreateCustomer("cus_1", nil)
	env.stripe.CreateSubscription(stripetest.Subscription{ID: "sub_1", Customer: "cus_1", Items: []stripetest.Item{{PriceID: bundle}}})
	env.follow()
	env.wantFindings("unknown_customer sub_1")
	env.wantDetail(KindUnknownCustomer, "odometer subscription set --tenant", "--stripe-customer cus_1")
	customer := "cus_1"
	_, err := billing.Set(t.Context(), env.db.Pool, billing.SubscriptionChange{
		Tenant: uuid.MustParse(acme), PlanID: inbox, Status: odometer.Active, Interval: odometer.Monthly,
		Start: day("2026-11-01"), End: day("2026-12-01"), StripeCustomer: &customer,
	}, env.now())
	if err != nil {
		t.Fatal(err)
	}
	env.compare()
	env.wantFindings()
	env.wantSubscriptions("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01")
}

func TestSubscriptionMetadataWinsOverCustomerMetadata(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.subscribe("1", uuid.NewString(), bundle, func(s *stripetest.Subscription) { s.Metadata = map[string]string{"tenant_id": acme} })
	env.follow()
	env.wantSubscriptions("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01")
}

func TestInvalidTenantIDIsAFinding(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.subscribe("1", strings.ToUpper(acme), bundle, nil)
	env.follow()
	env.wantSubscriptions()
	env.wantFindings("bad_tenant_id sub_1")
	env.stripe.CreateCustomer("cus_1", map[string]string{"tenant_id": acme})
	env.compare()
	env.wantSubscriptions("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01")
	env.wantFindings()
}

func TestSubscriptionCannotChangeTenant(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.subscribe("1", acme, bundle, nil)
	env.follow()
	other := uuid.NewString()
	env.stripe.CreateCustomer("cus_1", map[string]string{"tenant_id": other})
	env.compare()
	env.wantFindings("tenant_changed sub_1")
	env.want("the other's", env.subscriptionsOf(other))
	env.wantSubscriptions("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01")
}

func TestRefusedChangeIsAFinding(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.subscribe("1", acme, bundle, func(s *stripetest.Subscription) { s.Interval = "day" })
	env.editSubscriptions(func(o map[string]any) { // fifteen years of days
		o["current_period_start"], o["current_period_end"] = day("2011-11-01").Unix(), day("2011-11-02").Unix()
	})
	env.follow()
	env.wantSubscriptions()
	env.wantFindings("subscription_refused sub_1")
	env.want("outcomes", env.db.Texts(`select outcome from stripe_hooks where done_at is not null`), "finding subscription_refused")
	env.editSubscriptions(nil)
	env.compare()
	env.wantFindings()
}

func TestGoneSubscriptionIsAFinding(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	gone := "sub_gone"
	_, err := billing.Set(t.Context(), env.db.Pool, billing.SubscriptionChange{
		Tenant: uuid.MustParse(acme), PlanID: inbox, Status: odometer.Active, Interval: odometer.Monthly,
		Start: day("2026-11-01"), End: day("2026-12-01"), StripeSubscription: &gone,
	}, env.now())
	if err != nil {
		t.Fatal(err)
	}
	if c := env.compare(); c != (Compared{Findings: 1}) {
		t.Errorf("compared %+v", c)
	}
	env.wantFindings("subscription_gone sub_gone")
	env.deliver(hookOf("customer.subscription.updated", "sub_never"), hookOf("invoice.created", "in_never"))
	env.work()
	env.wantFindings("subscription_gone sub_gone", "subscription_gone sub_never")
	env.want("outcomes", env.db.Texts(`select outcome from stripe_hooks order by object_id`), "Stripe has no such invoice", "finding subscription_gone")
	env.wantSubscriptions("active price_inboxpilot_monthly month sub_gone", "2026-11-01 2026-12-01")
}

func TestADeletedCustomersSubscriptionIsCanceled(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.subscribe("1", acme, bundle, nil)
	env.follow()
	env.at("2026-11-10")
	env.stripe.DeleteCustomer("cus_1")
	deleted := func(o map[string]any) {
		if _, expanded := o["customer"].(map[string]any); expanded {
			o["customer"] = map[string]any{"id": "cus_1", "object": "customer", "deleted": true}
		}
	}
	env.editSubscriptions(deleted)
	env.follow()
	env.wantSubscriptions("canceled price_bundle_monthly month sub_1", "2026-11-01 2026-11-10")
	env.wantFindings()

	env.editSubscriptions(func(o map[string]any) { deleted(o); o["status"] = "active" })
	env.compare()
	env.wantFindings("customer_deleted sub_1")
	env.wantSubscriptions("canceled price_bundle_monthly month sub_1", "2026-11-01 2026-11-10")
}

func TestLaterOfTwoEndedSubscriptionsStands(t *testing.T) {
	t.Parallel()
	for _, order := range [][]int{{0, 1, 2, 3}, {3, 2, 1, 0}, {0}, {}} {
		env := newTestEnv(t, "2026-11-01")
		env.subscribe("1", acme, inbox, nil)
		env.at("2026-11-10")
		env.stripe.CancelSubscription("sub_1", false)
		env.at("2026-11-20")
		env.stripe.CreateSubscription(stripetest.Subscription{ID: "sub_2", Customer: "cus_1", Items: []stripetest.Item{{PriceID: bundle}}})
		env.at("2026-11-24")
		env.stripe.CancelSubscription("sub_2", false)
		hooks := env.take()
		for _, i := range order {
			env.deliver(hooks[i])
			env.work()
		}
		env.compare()
		got := env.subscriptionsOf(acme)
		if got[0] != "canceled price_bundle_monthly month sub_2" || got[len(got)-1] != "2026-11-20 2026-11-24" {
			t.Errorf("order %v: %q", order, got)
		}
	}
}

func TestSubscriptionThatEndedLongAgoIsIgnored(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-03-01")
	env.subscribe("1", acme, inbox, nil)
	env.at("2026-03-10")
	env.stripe.CancelSubscription("sub_1", false)
	env.at("2026-11-01")
	env.follow()
	env.compare()
	env.wantSubscriptions()
	env.wantFindings()
}
