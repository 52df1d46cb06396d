package reporter

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"odometer"
	"odometer/billing"
	"odometer/reporter/stripetest"
)

// newUsageRecordsEnv reports by legacy usage records.
func newUsageRecordsEnv(t *testing.T) (*testEnv, *tenant) {
	t.Helper()
	env := newTestEnv(t, nil)
	env.Reporter = env.reporter(UsageRecords)
	a := &tenant{testEnv: env, id: uuid.NewSHA1(uuid.NameSpaceOID, []byte("legacy")), customer: "cus_legacy", sub: "sub_legacy"}
	env.stripe.CreateCustomer(a.customer, nil)
	var items []stripetest.Item
	for _, agent := range billing.SampleCatalogue().Agents {
		items = append(items, stripetest.Item{ID: "si_" + agent.ID, PriceID: "price_" + agent.ID, LookupKey: agent.LookupKey, Metered: true})
	}
	start := december.AddDate(0, -1, 0)
	env.stripe.CreateSubscription(stripetest.Subscription{ID: a.sub, Customer: a.customer, Items: items, Start: start, End: december, Anchor: start})
	a.subscribe(billing.SubscriptionChange{PlanID: plan500, Status: odometer.Active, Start: start, End: december})
	return env, a
}

// records are what Stripe has of an agent's item in a month from its start on.
func (t *tenant) records(agent string, month time.Time) int64 {
	return t.stripe.UsageRecordTotal("si_"+agent, month, month.AddDate(0, 1, 0))
}

func (t *tenant) expectRecords(agent string, month time.Time, want int64) {
	t.t.Helper()
	if got := t.records(agent, month); got != want {
		t.t.Errorf("the item of %s has %d units in the month from %s, want %d", agent, got, month.Format(time.DateOnly), want)
	}
}

var november = december.AddDate(0, -1, 0)

func TestUsageRecordsAreSetAtOneTimestamp(t *testing.T) {
	t.Parallel()
	env, a := newUsageRecordsEnv(t)
	env.posts()
	for _, count := range []int64{510, 540, 505, 560} {
		a.use("inbox", count)
		env.expect(env.report(), 1, 0)
		a.expectRecords("inbox", november, count-500)
		env.advance(26 * time.Hour)
	}
	timestamps := map[string]bool{}
	for _, p := range env.posts() {
		timestamps[p.Form.Get("timestamp")] = true
		if p.Form.Get("action") != "set" {
			t.Errorf("action %s", p.Form.Get("action"))
		}
	}
	if len(timestamps) != 1 {
		t.Errorf("timestamps %v", timestamps)
	}
}

func TestLostUsageRecordIsReadFirst(t *testing.T) {
	t.Parallel()
	for name, fault := range lostAnswers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env, a := newUsageRecordsEnv(t)
			a.use("inbox", 510)
			env.failSends(fault)
			_, _ = env.Pass(t.Context(), Scope{})
			a.expectStates(Unknown)
			arrived := a.records("inbox", november) == 10
			env.failSends(stripetest.NoFault)
			env.advance(30 * time.Hour) // at any age
			before := len(env.posts())
			a.use("inbox", 515)
			env.expect(env.report(), 2, 0)
			a.expectRecords("inbox", november, 15)
			want := 2
			if arrived {
				want = 1
			}
			if n := len(env.posts()) - before; n != want {
				t.Errorf("%d records were sent, want %d", n, want)
			}
		})
	}
}

// A period that has ended takes no usage records: the last minutes before its
// end have a pass of their own, and what is left goes into the next period.
func TestUsageRecordsAreSentBeforeTheEndAndCarriedAfter(t *testing.T) {
	t.Parallel()
	env, a := newUsageRecordsEnv(t)
	a.use("inbox", 510)
	env.set(december.Add(-11 * time.Minute))
	expectDue(t, env, 0)
	env.set(december.Add(-9 * time.Minute))
	expectDue(t, env, 1)
	a.expectRecords("inbox", november, 10)
	a.use("inbox", 518)
	env.set(december.Add(30 * time.Minute))
	env.rollAndClose()
	env.expect(env.report(), 0, 1)
	env.set(december.Add(3 * time.Hour)) // the invoice is final
	env.expect(env.report(), 1, 0)
	a.expectRecords("inbox", november, 10)
	a.expectRecords("inbox", december, 8)
	a.use("inbox", 501)
	env.expect(env.report(), 1, 0)
	a.expectRecords("inbox", december, 9)
	expectSettled(t, a, true)
}

func expectDue(t *testing.T, env *testEnv, reported int) {
	t.Helper()
	result, err := env.Pass(t.Context(), Scope{Due: true})
	env.must(err)
	env.expect(result, reported, 0)
}

func TestSubscriptionWithoutTheItemIsParked(t *testing.T) {
	t.Parallel()
	env, a := newUsageRecordsEnv(t)
	env.stripe.UpdateSubscription(a.sub, func(s *stripetest.Subscription) { s.Items = s.Items[1:] })
	a.use("inbox", 510)
	a.use("invoice", 60)
	result := env.report()
	env.expect(result, 1, 1)
	if left := result.Left[0]; left.State != "parked" || left.Agent != "inbox" {
		t.Errorf("left %+v", left)
	}
	a.expectRecords("invoice", november, 10)
}
