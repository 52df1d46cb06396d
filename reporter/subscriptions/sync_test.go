package subscriptions

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"odometer"
	"odometer/billing"
	"odometer/reporter/stripetest"
)

func TestHookAppliesSubscription(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.subscribe("1", acme, bundle, nil)
	env.follow()
	env.wantSubscriptions("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01")
	env.want("outcomes", env.db.Texts(`select outcome from stripe_hooks where done_at is not null`),
		"set: active, plan price_bundle_monthly, period [2026-11-01T00:00:00Z, 2026-12-01T00:00:00Z)")
	env.want("customer", env.db.Texts(`select stripe_customer from subscriptions`), "cus_1")
	if c := env.compare(); c != (Compared{Listed: 1}) {
		t.Errorf("compared %+v", c)
	}
}

func TestPlanChangeAppliesToRunningPeriod(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.subscribe("1", acme, inbox, nil)
	env.follow()
	env.at("2026-11-10")
	env.update("1", func(s *stripetest.Subscription) { s.Items[1].PriceID = bundle })
	env.follow()
	env.wantSubscriptions("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01")
}

func TestAPlanOfAnotherIntervalBeginsAPeriod(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.subscribe("1", acme, inbox, nil)
	env.follow()
	env.at("2026-11-10")
	env.update("1", func(s *stripetest.Subscription) {
		s.Interval, s.Start, s.End, s.Anchor = "year", env.now(), time.Time{}, time.Time{}
	})
	env.follow()
	env.wantSubscriptions("active price_inboxpilot_monthly year sub_1", "2026-11-01 2026-11-10", "2026-11-10 2027-11-10")
}

func TestCancelAtPeriodEndLetsThePeriodRunOutAndNoneFollow(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.subscribe("1", acme, bundle, nil)
	env.update("1", func(s *stripetest.Subscription) { s.CancelAtPeriodEnd = true })
	env.follow()
	env.wantSubscriptions("active price_bundle_monthly none sub_1", "2026-11-01 2026-12-01")
	env.at("2026-12-02")
	env.close("2026-11-01") // our close may come before Stripe's word
	env.stripe.Advance()
	env.follow()
	env.wantSubscriptions("canceled price_bundle_monthly month sub_1", "2026-11-01 2026-12-01 closed")
	env.wantFindings()
	if c := env.compare(); c != (Compared{Listed: 1}) {
		t.Errorf("compared %+v", c)
	}
}

func TestACancellationTakenBackLetsPeriodsFollowAgain(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.subscribe("1", acme, bundle, nil)
	env.update("1", func(s *stripetest.Subscription) { s.CancelAtPeriodEnd = true })
	env.follow()
	env.update("1", func(s *stripetest.Subscription) { s.CancelAtPeriodEnd = false })
	env.follow()
	env.wantSubscriptions("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01")
	env.at("2026-12-02")
	env.stripe.Advance()
	env.follow()
	env.wantSubscriptions("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01", "2026-12-01 2027-01-01")
}

func TestAnImmediateCancelEndsThePeriodThere(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.subscribe("1", acme, bundle, nil)
	env.follow()
	env.at("2026-11-10")
	env.stripe.CancelSubscription("sub_1", true)
	env.follow()
	env.wantSubscriptions("canceled price_bundle_monthly month sub_1", "2026-11-01 2026-11-10")
}

func TestAMovedAnchorEndsThePeriodAndBeginsAnother(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.subscribe("1", acme, bundle, nil)
	env.follow()
	env.at("2026-11-10")
	env.update("1", func(s *stripetest.Subscription) { s.Start, s.End, s.Anchor = env.now(), time.Time{}, env.now() })
	env.follow()
	env.wantSubscriptions("active price_bundle_monthly month sub_1", "2026-11-01 2026-11-10", "2026-11-10 2026-12-10")
}

func trialUntil(end string) func(*stripetest.Subscription) {
	until := day(end)
	return func(s *stripetest.Subscription) { s.Status, s.TrialEnd = "trialing", &until }
}

func TestATrialIsFreeAndThenPaid(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.subscribe("1", acme, bundle, trialUntil("2026-11-15"))
	env.follow()
	env.wantSubscriptions("trial price_bundle_monthly month sub_1", "2026-11-01 2026-11-15 trial")
	env.at("2026-11-16")
	env.stripe.Advance()
	env.follow()
	env.wantSubscriptions("active price_bundle_monthly month sub_1", "2026-11-01 2026-11-15 trial", "2026-11-15 2026-12-15")
	if c := env.compare(); c != (Compared{Listed: 1}) {
		t.Errorf("compared %+v", c)
	}
}

func TestATrialMadeLongerStaysFree(t *testing.T) {
	t.Parallel()
	for _, late := range []bool{false, true} { // the word may come when the first end is past
		env := newTestEnv(t, "2026-11-01")
		env.subscribe("1", acme, bundle, trialUntil("2026-11-15"))
		env.follow()
		env.at("2026-11-10")
		env.update("1", trialUntil("2026-11-29"))
		want := []string{"2026-11-01 2026-11-29 trial"}
		if late {
			env.at("2026-11-16")
			env.rollOver()
			want = []string{"2026-11-01 2026-11-15 trial", "2026-11-15 2026-11-29 trial"}
		}
		env.follow()
		env.wantSubscriptions(append([]string{"trial price_bundle_monthly month sub_1"}, want...)...)
		env.wantFindings()
		if c := env.compare(); c != (Compared{Listed: 1}) {
			t.Errorf("compared %+v", c)
		}
	}
}

func (env *testEnv) rollOver() {
	env.t.Helper()
	if err := billing.RollOver(env.t.Context(), env.db.Pool, []uuid.UUID{uuid.MustParse(acme)}, env.now(), env.now()); err != nil {
		env.t.Fatal(err)
	}
}

func TestATrialThatEndsUnpaidIsOver(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.subscribe("1", acme, bundle, trialUntil("2026-11-15"))
	env.follow()
	env.at("2026-11-15")
	env.rollOver() // we take it for paid until Stripe says otherwise
	env.wantSubscriptions("active price_bundle_monthly month sub_1", "2026-11-01 2026-11-15 trial", "2026-11-15 2026-12-15")
	env.update("1", func(s *stripetest.Subscription) { s.Status = "paused" })
	env.follow()
	env.wantSubscriptions("expired price_bundle_monthly month sub_1", "2026-11-01 2026-11-15 trial")

	env.at("2026-11-20")
	env.update("1", func(s *stripetest.Subscription) {
		s.Status, s.Start, s.End, s.Anchor = "active", env.now(), time.Time{}, env.now()
	})
	env.follow()
	env.wantSubscriptions("active price_bundle_monthly month sub_1", "2026-11-01 2026-11-15 trial", "2026-11-20 2026-12-20")
}

func TestTrialFirstSeenWhenCanceledStaysFree(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.subscribe("1", acme, bundle, trialUntil("2026-11-15"))
	env.at("2026-11-10")
	env.stripe.CancelSubscription("sub_1", false)
	env.follow()
	env.wantSubscriptions("canceled price_bundle_monthly month sub_1", "2026-11-01 2026-11-10 trial")
	if c := env.compare(); c != (Compared{Listed: 1}) {
		t.Errorf("compared %+v", c)
	}
}

func TestALatePaymentChangesTheStatusAlone(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.subscribe("1", acme, bundle, nil)
	env.follow()
	for status, want := range map[string]string{"past_due": "past_due", "unpaid": "past_due", "active": "active"} {
		env.update("1", func(s *stripetest.Subscription) { s.Status = status })
		env.follow()
		env.wantSubscriptions(want+" price_bundle_monthly month sub_1", "2026-11-01 2026-12-01")
	}
}

func TestIncompleteSubscriptionIsIgnored(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.subscribe("1", acme, bundle, func(s *stripetest.Subscription) { s.Status = "incomplete" })
	env.follow()
	env.wantSubscriptions()
	env.update("1", func(s *stripetest.Subscription) { s.Status = "incomplete_expired" })
	env.follow()
	env.compare()
	env.wantSubscriptions()
	env.wantFindings()
}

func TestCompareRepairsLostHooks(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	for i, tenant := range []string{acme, uuid.NewString(), uuid.NewString()} {
		env.subscribe(string(rune('1'+i)), tenant, bundle, nil)
	}
	if c := env.compare(); c != (Compared{Listed: 3, Changed: 3}) {
		t.Errorf("compared %+v", c)
	}
	env.wantSubscriptions("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01")
	env.at("2026-11-10")
	env.stripe.CancelSubscription("sub_1", false)
	if c := env.compare(); c != (Compared{Listed: 3, Changed: 1}) {
		t.Errorf("compared %+v", c)
	}
	env.wantSubscriptions("canceled price_bundle_monthly month sub_1", "2026-11-01 2026-11-10")
}

func TestCompareReadsEveryPageAndFetchesOnlyDifferences(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	const n = pageSize + 3
	for range n {
		tenant := uuid.NewString()
		env.subscribe(tenant, tenant, bundle, nil)
	}
	if c := env.compare(); c != (Compared{Listed: n, Changed: n}) {
		t.Errorf("compared %+v", c)
	}
	before := env.db.Texts(`select sum(rules_version)::text from stream_positions`)
	env.stripe.RecordCalls(true)
	env.stripe.CreateCustomer("cus_other", nil)
	if c := env.compare(); c != (Compared{Listed: n}) {
		t.Errorf("compared again %+v", c)
	}
	if calls := env.stripe.Calls(); len(calls) != 2 {
		t.Errorf("%d calls, want a page each: %+v", len(calls), calls)
	}
	env.want("terms", env.db.Texts(`select sum(rules_version)::text from stream_positions`), before...)
}

func TestLateHookChangesNothing(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.subscribe("1", acme, inbox, nil)
	early := env.take()
	env.update("1", func(s *stripetest.Subscription) { s.Items[1].PriceID = bundle })
	env.follow()
	env.at("2026-11-05")
	env.deliver(early...)
	env.work()
	env.wantSubscriptions("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01")
	env.want("the late outcome", env.db.Texts(`select outcome from stripe_hooks where hook_id = $1`, early[0].ID), "as stored")
}

// A cancellation of which we hear when its period is closed, and we have rolled
// on: what is closed stays, and the period that runs ends now.
func TestACancellationAfterTheCloseEndsWhatRuns(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.subscribe("1", acme, bundle, nil)
	env.follow()
	env.at("2026-11-28")
	env.stripe.CancelSubscription("sub_1", false)
	env.at("2026-12-03")
	env.rollOver()
	env.close("2026-11-01")
	env.follow()
	want := []string{"canceled price_bundle_monthly month sub_1", "2026-11-01 2026-12-01 closed", "2026-12-01 2026-12-03"}
	env.wantSubscriptions(want...)
	env.at("2026-12-20")
	if c := env.compare(); c != (Compared{Listed: 1}) {
		t.Errorf("compared %+v", c)
	}
	env.wantSubscriptions(want...)
	env.wantFindings()
}

func TestACancellationAtTheEndHeardOfAfterTheCloseEndsWhatRuns(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.subscribe("1", acme, bundle, nil)
	env.follow()
	env.update("1", func(s *stripetest.Subscription) { s.CancelAtPeriodEnd = true })
	env.at("2026-12-03")
	env.rollOver()
	env.close("2026-11-01")
	env.compare()
	env.wantSubscriptions("canceled price_bundle_monthly month sub_1", "2026-11-01 2026-12-01 closed", "2026-12-01 2026-12-03")
}

func TestAnAnchorMovedIntoAClosedPeriodActsFromItsEnd(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.subscribe("1", acme, bundle, nil)
	env.follow()
	env.at("2026-11-28")
	env.update("1", func(s *stripetest.Subscription) { s.Start, s.End, s.Anchor = env.now(), time.Time{}, env.now() })
	env.at("2026-12-03")
	env.rollOver()
	env.close("2026-11-01")
	env.follow()
	env.wantSubscriptions("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01 closed", "2026-12-01 2026-12-28")
	if c := env.compare(); c != (Compared{Listed: 1}) {
		t.Errorf("compared %+v", c)
	}
}

// Stripe rolls a subscription over some time after its period's end.
func TestStripeMayLagBehindRollover(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.subscribe("1", acme, inbox, nil)
	env.follow()
	env.at("2026-12-02")
	env.rollOver()
	env.close("2026-11-01")
	env.update("1", func(s *stripetest.Subscription) { s.Items[1].PriceID = bundle })
	lagging := func(o map[string]any) {
		o["current_period_start"], o["current_period_end"] = day("2026-11-01").Unix(), day("2026-12-01").Unix()
	}
	env.editSubscriptions(lagging)
	env.follow()
	env.wantSubscriptions("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01 closed", "2026-12-01 2027-01-01")
	env.want("plans", env.db.Texts(`select plan_id from billing_periods order by period_start`), inbox, bundle)
	if c := env.compare(); c != (Compared{Listed: 1}) {
		t.Errorf("compared %+v", c)
	}
}

func TestHooksWaitWhileStripeIsUnavailable(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.subscribe("1", acme, bundle, nil)
	env.deliver(env.take()...)
	for _, fault := range []stripetest.Fault{stripetest.Unavailable503, stripetest.ResetBefore, stripetest.TooManyRequests,
		stripetest.Unauthorized, stripetest.TruncatedAfter} {
		env.stripe.SetFaults(func(*http.Request, url.Values) stripetest.Fault { return fault })
		env.due()
		n, err := env.sync.Work(t.Context())
		env.wantOneLine(err)
		if n != 0 {
			t.Errorf("%v: %d done", fault, n)
		}
		_, err = env.sync.Compare(t.Context())
		env.wantOneLine(err)
	}
	env.wantSubscriptions()
	env.stripe.SetFaults(nil)
	env.due()
	if n := env.work(); n != 1 {
		t.Errorf("%d done", n)
	}
	env.wantSubscriptions("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01")
}

// wantOneLine wants an error that people can read.
func (env *testEnv) wantOneLine(err error) {
	env.t.Helper()
	if err == nil || strings.ContainsAny(err.Error(), "{}\n") {
		env.t.Errorf("the error is %v", err)
	}
}

func TestFailingHookDoesNotBlockOthers(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.subscribe("2", uuid.NewString(), bundle, nil)
	env.subscribe("1", acme, bundle, nil)
	env.deliver(env.take()...)
	env.stripe.SetFaults(func(r *http.Request, _ url.Values) stripetest.Fault {
		if strings.HasSuffix(r.URL.Path, "sub_2") {
			return stripetest.Unavailable503
		}
		return stripetest.NoFault
	})
	if n, err := env.sync.Work(t.Context()); n != 1 || err == nil || !strings.Contains(err.Error(), "sub_2") {
		t.Errorf("%d done, %v", n, err)
	}
	env.wantSubscriptions("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01")
	env.want("waiting", env.db.Texts(`select object_id from stripe_hooks where done_at is null`), "sub_2")
}

func TestASubscriptionSetByHandIsNotEndedByAnOldOneAtStripe(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.subscribe("1", acme, inbox, nil)
	env.at("2026-11-10")
	env.stripe.CancelSubscription("sub_1", false)
	customer := "cus_1"
	_, err := billing.Set(t.Context(), env.db.Pool, billing.SubscriptionChange{
		Tenant: uuid.MustParse(acme), PlanID: bundle, Status: odometer.Active, Interval: odometer.Monthly,
		Start: day("2026-11-01"), End: day("2026-12-01"), StripeCustomer: &customer,
	}, env.now())
	if err != nil {
		t.Fatal(err)
	}
	env.follow()
	env.compare()
	env.wantSubscriptions("active price_bundle_monthly month ", "2026-11-01 2026-12-01")
}
