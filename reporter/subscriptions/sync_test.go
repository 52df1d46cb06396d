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

func TestASubscriptionComesInByItsHook(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.subscribe("1", acme, bundle, nil)
	w.follow()
	w.wantAgreed("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01")
	w.want("outcomes", w.texts(`select outcome from stripe_hooks where done_at is not null`),
		"set: active, plan price_bundle_monthly, period [2026-11-01T00:00:00Z, 2026-12-01T00:00:00Z)")
	w.want("customer", w.texts(`select stripe_customer from subscriptions`), "cus_1")
	if c := w.compare(); c != (Compared{Looked: 1}) {
		t.Errorf("compared %+v", c)
	}
}

func TestAPlanChangeActsOnTheRunningPeriod(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.subscribe("1", acme, inbox, nil)
	w.follow()
	w.at("2026-11-10")
	w.update("1", func(s *stripetest.Subscription) { s.Items[1].PriceID = bundle })
	w.follow()
	w.wantAgreed("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01")
}

func TestAPlanOfAnotherIntervalBeginsAPeriod(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.subscribe("1", acme, inbox, nil)
	w.follow()
	w.at("2026-11-10")
	w.update("1", func(s *stripetest.Subscription) {
		s.Interval, s.Start, s.End, s.Anchor = "year", w.now(), time.Time{}, time.Time{}
	})
	w.follow()
	w.wantAgreed("active price_inboxpilot_monthly year sub_1", "2026-11-01 2026-11-10", "2026-11-10 2027-11-10")
}

func TestCancelAtPeriodEndLetsThePeriodRunOutAndNoneFollow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.subscribe("1", acme, bundle, nil)
	w.update("1", func(s *stripetest.Subscription) { s.CancelAtPeriodEnd = true })
	w.follow()
	w.wantAgreed("active price_bundle_monthly none sub_1", "2026-11-01 2026-12-01")
	w.at("2026-12-02")
	w.close("2026-11-01") // our close may come before Stripe's word
	w.stripe.Advance()
	w.follow()
	w.wantAgreed("canceled price_bundle_monthly month sub_1", "2026-11-01 2026-12-01 closed")
	w.wantFindings()
	if c := w.compare(); c != (Compared{Looked: 1}) {
		t.Errorf("compared %+v", c)
	}
}

func TestACancellationTakenBackLetsPeriodsFollowAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.subscribe("1", acme, bundle, nil)
	w.update("1", func(s *stripetest.Subscription) { s.CancelAtPeriodEnd = true })
	w.follow()
	w.update("1", func(s *stripetest.Subscription) { s.CancelAtPeriodEnd = false })
	w.follow()
	w.wantAgreed("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01")
	w.at("2026-12-02")
	w.stripe.Advance()
	w.follow()
	w.wantAgreed("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01", "2026-12-01 2027-01-01")
}

func TestAnImmediateCancelEndsThePeriodThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.subscribe("1", acme, bundle, nil)
	w.follow()
	w.at("2026-11-10")
	w.stripe.CancelSubscription("sub_1", true)
	w.follow()
	w.wantAgreed("canceled price_bundle_monthly month sub_1", "2026-11-01 2026-11-10")
}

func TestAMovedAnchorEndsThePeriodAndBeginsAnother(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.subscribe("1", acme, bundle, nil)
	w.follow()
	w.at("2026-11-10")
	w.update("1", func(s *stripetest.Subscription) { s.Start, s.End, s.Anchor = w.now(), time.Time{}, w.now() })
	w.follow()
	w.wantAgreed("active price_bundle_monthly month sub_1", "2026-11-01 2026-11-10", "2026-11-10 2026-12-10")
}

func trialUntil(end string) func(*stripetest.Subscription) {
	until := day(end)
	return func(s *stripetest.Subscription) { s.Status, s.TrialEnd = "trialing", &until }
}

func TestATrialIsFreeAndThenPaid(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.subscribe("1", acme, bundle, trialUntil("2026-11-15"))
	w.follow()
	w.wantAgreed("trial price_bundle_monthly month sub_1", "2026-11-01 2026-11-15 trial")
	w.at("2026-11-16")
	w.stripe.Advance()
	w.follow()
	w.wantAgreed("active price_bundle_monthly month sub_1", "2026-11-01 2026-11-15 trial", "2026-11-15 2026-12-15")
	if c := w.compare(); c != (Compared{Looked: 1}) {
		t.Errorf("compared %+v", c)
	}
}

func TestATrialMadeLongerStaysFree(t *testing.T) {
	t.Parallel()
	for _, late := range []bool{false, true} { // the word may come when the first end is past
		w := newWorld(t, "2026-11-01")
		w.subscribe("1", acme, bundle, trialUntil("2026-11-15"))
		w.follow()
		w.at("2026-11-10")
		w.update("1", trialUntil("2026-11-29"))
		want := []string{"2026-11-01 2026-11-29 trial"}
		if late {
			w.at("2026-11-16")
			w.rollOver()
			want = []string{"2026-11-01 2026-11-15 trial", "2026-11-15 2026-11-29 trial"}
		}
		w.follow()
		w.wantAgreed(append([]string{"trial price_bundle_monthly month sub_1"}, want...)...)
		w.wantFindings()
		if c := w.compare(); c != (Compared{Looked: 1}) {
			t.Errorf("compared %+v", c)
		}
	}
}

func (w *world) rollOver() {
	w.t.Helper()
	if err := billing.RollOver(w.t.Context(), w.pool, []uuid.UUID{uuid.MustParse(acme)}, w.now(), w.now()); err != nil {
		w.t.Fatal(err)
	}
}

func TestATrialThatEndsUnpaidIsOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.subscribe("1", acme, bundle, trialUntil("2026-11-15"))
	w.follow()
	w.at("2026-11-15")
	w.rollOver() // we take it for paid until Stripe says otherwise
	w.wantAgreed("active price_bundle_monthly month sub_1", "2026-11-01 2026-11-15 trial", "2026-11-15 2026-12-15")
	w.update("1", func(s *stripetest.Subscription) { s.Status = "paused" })
	w.follow()
	w.wantAgreed("expired price_bundle_monthly month sub_1", "2026-11-01 2026-11-15 trial")

	w.at("2026-11-20")
	w.update("1", func(s *stripetest.Subscription) {
		s.Status, s.Start, s.End, s.Anchor = "active", w.now(), time.Time{}, w.now()
	})
	w.follow()
	w.wantAgreed("active price_bundle_monthly month sub_1", "2026-11-01 2026-11-15 trial", "2026-11-20 2026-12-20")
}

func TestATrialFirstHeardOfWhenCanceledStaysFree(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.subscribe("1", acme, bundle, trialUntil("2026-11-15"))
	w.at("2026-11-10")
	w.stripe.CancelSubscription("sub_1", false)
	w.follow()
	w.wantAgreed("canceled price_bundle_monthly month sub_1", "2026-11-01 2026-11-10 trial")
	if c := w.compare(); c != (Compared{Looked: 1}) {
		t.Errorf("compared %+v", c)
	}
}

func TestALatePaymentChangesTheStatusAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.subscribe("1", acme, bundle, nil)
	w.follow()
	for status, want := range map[string]string{"past_due": "past_due", "unpaid": "past_due", "active": "active"} {
		w.update("1", func(s *stripetest.Subscription) { s.Status = status })
		w.follow()
		w.wantAgreed(want+" price_bundle_monthly month sub_1", "2026-11-01 2026-12-01")
	}
}

func TestAnUnpaidBeginningIsNoSubscription(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.subscribe("1", acme, bundle, func(s *stripetest.Subscription) { s.Status = "incomplete" })
	w.follow()
	w.wantAgreed()
	w.update("1", func(s *stripetest.Subscription) { s.Status = "incomplete_expired" })
	w.follow()
	w.compare()
	w.wantAgreed()
	w.wantFindings()
}

func TestLostHooksAreMadeUpForByComparing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	for i, tenant := range []string{acme, uuid.NewString(), uuid.NewString()} {
		w.subscribe(string(rune('1'+i)), tenant, bundle, nil)
	}
	if c := w.compare(); c != (Compared{Looked: 3, Changed: 3}) {
		t.Errorf("compared %+v", c)
	}
	w.wantAgreed("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01")
	w.at("2026-11-10")
	w.stripe.CancelSubscription("sub_1", false)
	if c := w.compare(); c != (Compared{Looked: 3, Changed: 1}) {
		t.Errorf("compared %+v", c)
	}
	w.wantAgreed("canceled price_bundle_monthly month sub_1", "2026-11-01 2026-11-10")
}

func TestComparingGoesThroughEveryPageAndFetchesOnlyWhatDiffers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	const n = pageSize + 3
	for range n {
		tenant := uuid.NewString()
		w.subscribe(tenant, tenant, bundle, nil)
	}
	if c := w.compare(); c != (Compared{Looked: n, Changed: n}) {
		t.Errorf("compared %+v", c)
	}
	before := w.texts(`select sum(rules_version)::text from stream_positions`)
	w.stripe.RecordCalls(true)
	w.stripe.CreateCustomer("cus_other", nil)
	if c := w.compare(); c != (Compared{Looked: n}) {
		t.Errorf("compared again %+v", c)
	}
	if calls := w.stripe.Calls(); len(calls) != 2 {
		t.Errorf("%d calls, want a page each: %+v", len(calls), calls)
	}
	w.want("terms", w.texts(`select sum(rules_version)::text from stream_positions`), before...)
}

func TestAHookDaysLateChangesNothingThatIsRight(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.subscribe("1", acme, inbox, nil)
	early := w.take()
	w.update("1", func(s *stripetest.Subscription) { s.Items[1].PriceID = bundle })
	w.follow()
	w.at("2026-11-05")
	w.deliver(early...)
	w.work()
	w.wantAgreed("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01")
	w.want("the late outcome", w.texts(`select outcome from stripe_hooks where hook_id = $1`, early[0].ID), "as stored")
}

// A cancellation of which we hear when its period is closed, and we have rolled
// on: what is closed stays, and the period that runs ends now.
func TestACancellationAfterTheCloseEndsWhatRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.subscribe("1", acme, bundle, nil)
	w.follow()
	w.at("2026-11-28")
	w.stripe.CancelSubscription("sub_1", false)
	w.at("2026-12-03")
	w.rollOver()
	w.close("2026-11-01")
	w.follow()
	want := []string{"canceled price_bundle_monthly month sub_1", "2026-11-01 2026-12-01 closed", "2026-12-01 2026-12-03"}
	w.wantAgreed(want...)
	w.at("2026-12-20")
	if c := w.compare(); c != (Compared{Looked: 1}) {
		t.Errorf("compared %+v", c)
	}
	w.wantAgreed(want...)
	w.wantFindings()
}

func TestACancellationAtTheEndHeardOfAfterTheCloseEndsWhatRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.subscribe("1", acme, bundle, nil)
	w.follow()
	w.update("1", func(s *stripetest.Subscription) { s.CancelAtPeriodEnd = true })
	w.at("2026-12-03")
	w.rollOver()
	w.close("2026-11-01")
	w.compare()
	w.wantAgreed("canceled price_bundle_monthly month sub_1", "2026-11-01 2026-12-01 closed", "2026-12-01 2026-12-03")
}

func TestAnAnchorMovedIntoAClosedPeriodActsFromItsEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.subscribe("1", acme, bundle, nil)
	w.follow()
	w.at("2026-11-28")
	w.update("1", func(s *stripetest.Subscription) { s.Start, s.End, s.Anchor = w.now(), time.Time{}, w.now() })
	w.at("2026-12-03")
	w.rollOver()
	w.close("2026-11-01")
	w.follow()
	w.wantAgreed("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01 closed", "2026-12-01 2026-12-28")
	if c := w.compare(); c != (Compared{Looked: 1}) {
		t.Errorf("compared %+v", c)
	}
}

// Stripe rolls a subscription over some time after its period's end.
func TestStripeMayLagBehindOurRollover(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.subscribe("1", acme, inbox, nil)
	w.follow()
	w.at("2026-12-02")
	w.rollOver()
	w.close("2026-11-01")
	w.update("1", func(s *stripetest.Subscription) { s.Items[1].PriceID = bundle })
	lagging := func(o map[string]any) {
		o["current_period_start"], o["current_period_end"] = day("2026-11-01").Unix(), day("2026-12-01").Unix()
	}
	w.editSubscriptions(lagging)
	w.follow()
	w.wantAgreed("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01 closed", "2026-12-01 2027-01-01")
	w.want("plans", w.texts(`select plan_id from billing_periods order by period_start`), inbox, bundle)
	if c := w.compare(); c != (Compared{Looked: 1}) {
		t.Errorf("compared %+v", c)
	}
}

func TestWhileStripeIsAwayHooksWait(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.subscribe("1", acme, bundle, nil)
	w.deliver(w.take()...)
	for _, fault := range []stripetest.Fault{stripetest.Unavailable503, stripetest.ResetBefore, stripetest.TooManyRequests,
		stripetest.Unauthorized, stripetest.TruncatedAfter} {
		w.stripe.SetFaults(func(*http.Request, url.Values) stripetest.Fault { return fault })
		w.due()
		n, err := w.sync.Work(t.Context())
		w.wantOneLine(err)
		if n != 0 {
			t.Errorf("%v: %d done", fault, n)
		}
		_, err = w.sync.Compare(t.Context())
		w.wantOneLine(err)
	}
	w.wantAgreed()
	w.stripe.SetFaults(nil)
	w.due()
	if n := w.work(); n != 1 {
		t.Errorf("%d done", n)
	}
	w.wantAgreed("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01")
}

// wantOneLine wants an error that people can read.
func (w *world) wantOneLine(err error) {
	w.t.Helper()
	if err == nil || strings.ContainsAny(err.Error(), "{}\n") {
		w.t.Errorf("the error is %v", err)
	}
}

func TestAHookThatFailsDoesNotStopTheOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.subscribe("2", uuid.NewString(), bundle, nil)
	w.subscribe("1", acme, bundle, nil)
	w.deliver(w.take()...)
	w.stripe.SetFaults(func(r *http.Request, _ url.Values) stripetest.Fault {
		if strings.HasSuffix(r.URL.Path, "sub_2") {
			return stripetest.Unavailable503
		}
		return stripetest.NoFault
	})
	if n, err := w.sync.Work(t.Context()); n != 1 || err == nil || !strings.Contains(err.Error(), "sub_2") {
		t.Errorf("%d done, %v", n, err)
	}
	w.wantAgreed("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01")
	w.want("waiting", w.texts(`select object_id from stripe_hooks where done_at is null`), "sub_2")
}

func TestASubscriptionSetByHandIsNotEndedByAnOldOneAtStripe(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.subscribe("1", acme, inbox, nil)
	w.at("2026-11-10")
	w.stripe.CancelSubscription("sub_1", false)
	customer := "cus_1"
	_, err := billing.Set(t.Context(), w.pool, billing.SubscriptionChange{
		Tenant: uuid.MustParse(acme), PlanID: bundle, Status: odometer.Active, Interval: odometer.Monthly,
		Start: day("2026-11-01"), End: day("2026-12-01"), StripeCustomer: &customer,
	}, w.now())
	if err != nil {
		t.Fatal(err)
	}
	w.follow()
	w.compare()
	w.wantAgreed("active price_bundle_monthly month ", "2026-11-01 2026-12-01")
}
