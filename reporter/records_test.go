package reporter

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"odometer"
	"odometer/billing"
	"odometer/reporter/stripetest"
)

// newRecordsWorld is a world that tells by legacy usage records.
func newRecordsWorld(t *testing.T) (*world, *tenant) {
	t.Helper()
	w := newWorld(t, nil)
	w.Reporter = w.reporter(UsageRecords)
	a := &tenant{world: w, id: uuid.NewSHA1(uuid.NameSpaceOID, []byte("legacy")), customer: "cus_legacy", sub: "sub_legacy"}
	w.stripe.CreateCustomer(a.customer, nil)
	var items []stripetest.Item
	for _, agent := range billing.SampleCatalogue().Agents {
		items = append(items, stripetest.Item{ID: "si_" + agent.ID, PriceID: "price_" + agent.ID, LookupKey: agent.LookupKey, Metered: true})
	}
	start := december.AddDate(0, -1, 0)
	w.stripe.CreateSubscription(stripetest.Subscription{ID: a.sub, Customer: a.customer, Items: items, Start: start, End: december, Anchor: start})
	a.subscribe(billing.SubscriptionChange{PlanID: plan500, Status: odometer.Active, Start: start, End: december})
	return w, a
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
	w, a := newRecordsWorld(t)
	w.posts()
	for _, count := range []int64{510, 540, 505, 560} {
		a.use("inbox", count)
		w.expect(w.report(), 1, 0)
		a.expectRecords("inbox", november, count-500)
		w.pass(26 * time.Hour)
	}
	timestamps := map[string]bool{}
	for _, p := range w.posts() {
		timestamps[p.Form.Get("timestamp")] = true
		if p.Form.Get("action") != "set" {
			t.Errorf("action %s", p.Form.Get("action"))
		}
	}
	if len(timestamps) != 1 {
		t.Errorf("timestamps %v", timestamps)
	}
}

func TestLostUsageRecordIsLookedUpFirst(t *testing.T) {
	t.Parallel()
	for name, fault := range lostAnswers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, a := newRecordsWorld(t)
			a.use("inbox", 510)
			w.failTelling(fault)
			_, _ = w.Pass(t.Context(), Scope{})
			a.expectStates(Uncertain)
			arrived := a.records("inbox", november) == 10
			w.failTelling(stripetest.NoFault)
			w.pass(30 * time.Hour) // at any age
			before := len(w.posts())
			a.use("inbox", 515)
			w.expect(w.report(), 2, 0)
			a.expectRecords("inbox", november, 15)
			want := 2
			if arrived {
				want = 1
			}
			if n := len(w.posts()) - before; n != want {
				t.Errorf("%d records were sent, want %d", n, want)
			}
		})
	}
}

// A period that has ended takes no usage records: the last minutes before its
// end have a pass of their own, and what is left goes into the next period.
func TestUsageRecordsAreToldBeforeTheEndAndCarriedAfter(t *testing.T) {
	t.Parallel()
	w, a := newRecordsWorld(t)
	a.use("inbox", 510)
	w.set(december.Add(-11 * time.Minute))
	expectDue(t, w, 0)
	w.set(december.Add(-9 * time.Minute))
	expectDue(t, w, 1)
	a.expectRecords("inbox", november, 10)
	a.use("inbox", 518)
	w.set(december.Add(30 * time.Minute))
	w.roll()
	w.expect(w.report(), 0, 1)
	w.set(december.Add(3 * time.Hour)) // the invoice is final
	w.expect(w.report(), 1, 0)
	a.expectRecords("inbox", november, 10)
	a.expectRecords("inbox", december, 8)
	a.use("inbox", 501)
	w.expect(w.report(), 1, 0)
	a.expectRecords("inbox", december, 9)
	expectSettled(t, a, true)
}

func expectDue(t *testing.T, w *world, told int) {
	t.Helper()
	result, err := w.Pass(t.Context(), Scope{Due: true})
	w.must(err)
	w.expect(result, told, 0)
}

func TestSubscriptionWithoutTheItemIsParked(t *testing.T) {
	t.Parallel()
	w, a := newRecordsWorld(t)
	w.stripe.UpdateSubscription(a.sub, func(s *stripetest.Subscription) { s.Items = s.Items[1:] })
	a.use("inbox", 510)
	a.use("invoice", 60)
	result := w.report()
	w.expect(result, 1, 1)
	if left := result.Left[0]; left.State != "parked" || left.Agent != "inbox" {
		t.Errorf("left %+v", left)
	}
	a.expectRecords("invoice", november, 10)
}
