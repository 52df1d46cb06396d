package reporter

import (
	"net/http"
	"net/url"
	"testing"
	"time"

	"odometer"
	"odometer/billing"
	"odometer/reporter/stripetest"
)

// What is carried into a period without an answer, and turns out to be on its
// final invoice, is not carried again.
func TestUnansweredCarryIsDecidedByTheInvoiceItWentTo(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]stripetest.Fault{"arrived": stripetest.ResetAfter, "lost": stripetest.ResetBefore} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			a := w.month("a")
			a.use("inbox", 530)
			w.set(december.AddDate(0, 0, 3)) // its invoice is final, and has nothing
			w.roll()
			a.use("inbox", 504)
			w.failTelling(fault)
			_, _ = w.Pass(t.Context(), Scope{})
			w.failTelling(stripetest.NoFault)
			w.set(december.AddDate(0, 1, 2)) // so is the invoice that it was carried to
			w.roll()
			w.Reporter.crash = func(string, *Link) bool { // before each next call
				if billed := a.invoiced("inbox") + a.running("inbox"); billed > 34 {
					t.Errorf("%d units are billed, 34 were used", billed)
				}
				return false
			}
			w.report()
			w.set(december.AddDate(0, 2, 2))
			w.roll()
			w.report()
			if got := a.invoiced("inbox"); got != 34 {
				t.Errorf("invoiced %d, want 34", got)
			}
		})
	}
}

// running is what Stripe's meter has of the month of the clock.
func (t *tenant) running(agent string) int64 {
	now := t.time()
	month := time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	return t.stripe.Total(t.customer, agent+"_overage", month, month.AddDate(0, 1, 0))
}

// Stripe has no invoice that could decide: the summary does, before anything
// is carried.
func TestUnansweredLinkWithoutAnInvoiceWaitsForTheSummary(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.month("a")
	w.stripe.UpdateSubscription(a.sub, func(s *stripetest.Subscription) { s.Items = s.Items[:1] }) // nothing metered
	a.use("inbox", 510)
	w.set(december.Add(20 * time.Minute))
	w.roll()
	w.failTelling(stripetest.ResetAfter)
	_, _ = w.Pass(t.Context(), Scope{})
	a.expectStates(Uncertain)
	w.failTelling(stripetest.NoFault)
	w.set(december.Add(73 * time.Hour))
	w.report()
	w.report()
	a.expectAt("inbox", 10)
	a.expectStates(Taken)
	expectSettled(t, a, true)
}

// A subscription that ends in the past leaves a link in no period. It is
// decided all the same, and holds up nobody.
func TestUnansweredLinkOutsideOfAllPeriodsIsDecided(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]stripetest.Fault{"arrived": stripetest.ResetAfter, "lost": stripetest.ResetBefore} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			a, b := w.month("a"), w.month("b")
			a.use("inbox", 510)
			w.failTelling(fault)
			_, _ = w.Pass(t.Context(), Scope{})
			w.failTelling(stripetest.NoFault)
			a.subscribe(billing.SubscriptionChange{PlanID: plan500, Status: odometer.Canceled, Start: november, End: begin.Add(-time.Hour)})
			b.use("inbox", 512)
			for range 4 {
				w.pass(30 * time.Hour)
				w.report()
			}
			b.expectAt("inbox", 12)
			for _, l := range a.all() {
				if l.State.undecided() {
					t.Errorf("link %d is %s: %s", l.Revision, l.State, l.Detail)
				}
			}
		})
	}
}

// A pass that was ended by a signal has lost nothing and told nothing twice.
func TestPassThatIsEndedGoesOnLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *stripetest.Options) { o.Latency = 10 * time.Millisecond })
	all := w.crowd(60)
	w.posts()
	ctx, cancel := contextUntil(t, func() bool { return len(w.posts()) > 20 })
	_, err := w.Pass(ctx, Scope{})
	cancel()
	if err == nil {
		t.Error("the pass went through")
	}
	ended := len(w.posts())
	w.pass(time.Minute)
	w.report()
	expectAllAt(all, 10)
	if n := len(w.posts()); ended >= 60 || n != 60 {
		t.Errorf("%d calls until the end, %d in all, want 60", ended, n)
	}
}

// While a call is under way, somebody else decides its link: that is no trouble
// of this pass.
func TestLinkThatSomebodyElseDecidedEndsNoPass(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]stripetest.Fault{
		"accepted": stripetest.NoFault, "unknown": stripetest.StoredError500Before, "refused": stripetest.InvalidRequest400,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			a := w.month("a")
			a.use("inbox", 510)
			w.stripe.SetFaults(func(r *http.Request, _ url.Values) stripetest.Fault {
				if r.Method != http.MethodPost {
					return stripetest.NoFault
				}
				w.exec(`update overage_reports set state = 'rejected', decided_at = now()`)
				return fault
			})
			w.report()
			a.expectStates(Refused)
		})
	}
}
