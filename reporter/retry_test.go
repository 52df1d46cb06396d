package reporter

import (
	"context"
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"odometer"
	"odometer/billing"
	"odometer/reporter/stripetest"
)

// What is carried into a period without an answer, and turns out to be on its
// final invoice, is not carried again.
func TestUnansweredCarryIsDecidedByItsInvoice(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]stripetest.Fault{"arrived": stripetest.ResetAfter, "lost": stripetest.ResetBefore} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := newTestEnv(t, nil)
			a := env.november("a")
			a.use("inbox", 530)
			env.set(december.AddDate(0, 0, 3)) // its invoice is final, and has nothing
			env.rollAndClose()
			a.use("inbox", 504)
			env.failSends(fault)
			_, _ = env.Pass(t.Context(), Scope{})
			env.failSends(stripetest.NoFault)
			env.set(december.AddDate(0, 1, 2)) // so is the invoice that it was carried to
			env.rollAndClose()
			env.Reporter.crash = func(string, *LedgerEntry) bool { // before each next call
				if billed := a.invoiced("inbox") + a.running("inbox"); billed > 34 {
					t.Errorf("%d units are billed, 34 were used", billed)
				}
				return false
			}
			env.report()
			env.set(december.AddDate(0, 2, 2))
			env.rollAndClose()
			env.report()
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
func TestUnansweredEntryWithoutAnInvoiceWaitsForTheSummary(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a := env.november("a")
	env.stripe.UpdateSubscription(a.sub, func(s *stripetest.Subscription) { s.Items = s.Items[:1] }) // nothing metered
	a.use("inbox", 510)
	env.set(december.Add(20 * time.Minute))
	env.rollAndClose()
	env.failSends(stripetest.ResetAfter)
	_, _ = env.Pass(t.Context(), Scope{})
	a.expectStates(Unknown)
	env.failSends(stripetest.NoFault)
	env.set(december.Add(73 * time.Hour))
	env.report()
	env.report()
	a.expectMeterTotal("inbox", 10)
	a.expectStates(Accepted)
	expectSettled(t, a, true)
}

// A subscription that ends in the past leaves an entry in no period. It is
// decided all the same, and holds up nobody.
func TestUnansweredEntryOutsideOfAllPeriodsIsDecided(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]stripetest.Fault{"arrived": stripetest.ResetAfter, "lost": stripetest.ResetBefore} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := newTestEnv(t, nil)
			a, b := env.november("a"), env.november("b")
			a.use("inbox", 510)
			env.failSends(fault)
			_, _ = env.Pass(t.Context(), Scope{})
			env.failSends(stripetest.NoFault)
			a.subscribe(billing.SubscriptionChange{PlanID: plan500, Status: odometer.Canceled, Start: november, End: begin.Add(-time.Hour)})
			b.use("inbox", 512)
			for range 4 {
				env.advance(30 * time.Hour)
				env.report()
			}
			b.expectMeterTotal("inbox", 12)
			for _, e := range a.allEntries() {
				if e.State.undecided() {
					t.Errorf("entry %d is %s: %s", e.Revision, e.State, e.Detail)
				}
			}
		})
	}
}

// A pass that was ended by a signal has lost nothing and reported nothing twice.
func TestInterruptedPassIsContinuedLater(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, func(o *stripetest.Options) { o.Latency = 10 * time.Millisecond })
	all := env.tenantsOver(60)
	env.posts()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var sent atomic.Int64
	env.stripe.SetFaults(func(r *http.Request, _ url.Values) stripetest.Fault {
		if r.Method == http.MethodPost && sent.Add(1) == 21 {
			cancel()
		}
		return stripetest.NoFault
	})
	_, err := env.Pass(ctx, Scope{})
	if err == nil {
		t.Error("the pass went through")
	}
	ended := len(env.posts())
	env.advance(time.Minute)
	env.report()
	expectMeterTotals(all, 10)
	if n := len(env.posts()); ended >= 60 || n != 60 {
		t.Errorf("%d calls until the end, %d in all, want 60", ended, n)
	}
}

// While a call is in progress, another process decides its entry: that is no error
// of this pass.
func TestEntryDecidedElsewhereEndsNoPass(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]stripetest.Fault{
		"accepted": stripetest.NoFault, "unknown": stripetest.StoredError500Before, "refused": stripetest.InvalidRequest400,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := newTestEnv(t, nil)
			a := env.november("a")
			a.use("inbox", 510)
			env.stripe.SetFaults(func(r *http.Request, _ url.Values) stripetest.Fault {
				if r.Method != http.MethodPost {
					return stripetest.NoFault
				}
				env.db.Exec(`update overage_reports set state = 'rejected', decided_at = now()`)
				return fault
			})
			env.report()
			a.expectStates(Rejected)
		})
	}
}
