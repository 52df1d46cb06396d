package reporter

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"odometer"
	"odometer/billing"
	"odometer/reporter/stripetest"
)

// A customer that is mapped from the next period on is not billed for the last.
func TestAnEndedPeriodIsBilledToTheCustomerThatItHad(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.month("a")
	a.use("inbox", 510)
	old := *a
	w.stripe.CreateCustomer("cus_next", nil)
	a.customer = "cus_next"
	w.set(december.Add(time.Minute))
	a.subscribe(billing.SubscriptionChange{PlanID: plan500, Status: odometer.Active, Start: december, End: december.AddDate(0, 1, 0)})
	w.pass(20 * time.Minute)
	w.roll()
	w.expect(w.report(), 1, 0)
	old.expectAt("inbox", 10)
	a.expectAt("inbox", 0)
	w.pass(3 * time.Hour)
	w.report()
	if got := old.invoiced("inbox"); got != 10 {
		t.Errorf("the customer that the period had is invoiced %d, want 10", got)
	}
	expectSettled(t, a, true)
}

func TestOneCustomerBillsOneTenant(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a, b := w.month("a"), w.month("b")
	_, err := billing.Set(t.Context(), w.pool, billing.SubscriptionChange{
		Tenant: b.id, PlanID: plan500, Status: odometer.Active, Interval: odometer.Monthly,
		Start: december.AddDate(0, -1, 0), End: december, StripeCustomer: &a.customer,
	}, w.time())
	if !errors.Is(err, billing.ErrRefused) || !strings.Contains(err.Error(), a.id.String()) {
		t.Errorf("a second tenant for %s: %v", a.customer, err)
	}
}

// Stripe accepts usage that no price bills: that is said, not settled silently.
func TestUsageThatNoPriceBillsIsFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.month("a")
	w.stripe.UpdateSubscription(a.sub, func(s *stripetest.Subscription) {
		s.Items = append(s.Items[:1:1], s.Items[2:]...) // without inbox
	})
	a.use("inbox", 510)
	a.use("invoice", 60)
	w.report()
	w.set(december.Add(3 * time.Hour))
	w.roll()
	w.report()
	if got := w.openFindings(kindNotInvoiced); len(got) != 1 || !strings.HasSuffix(got[0], " inbox") {
		t.Errorf("findings %q", got)
	}
}

// A Stripe that answers only what it must is told all the same.
func TestQuestionsThatStripeDoesNotAnswerStopNothing(t *testing.T) {
	t.Parallel()
	for name, refuse := range map[string]func(http.ResponseWriter){
		"plain 404":  func(w http.ResponseWriter) { http.Error(w, "404 page not found", http.StatusNotFound) },
		"empty 404":  func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) },
		"flat error": func(w http.ResponseWriter) { http.Error(w, `{"error":"not found"}`, http.StatusNotFound) },
		"plain 405":  func(w http.ResponseWriter) { http.Error(w, "no", http.StatusMethodNotAllowed) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			stingy := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if strings.HasPrefix(r.URL.Path, "/v1/billing/meter_events") {
					w.stripe.ServeHTTP(rw, r)
					return
				}
				refuse(rw)
			}))
			t.Cleanup(stingy.Close)
			w.url = stingy.URL
			w.Reporter = w.reporter(MeterEvents)
			a := w.month("a")
			a.use("inbox", 510)
			w.expect(w.report(), 1, 0)
			w.set(december.Add(20 * time.Minute))
			a.use("inbox", 0)
			w.exec(`update usage_counters set count = 520 where tenant_id = $1 and period_start < $2`, a.id, december)
			w.roll()
			w.expect(w.report(), 1, 0)
			a.expectAt("inbox", 20)
		})
	}
}

// A key that says whose it is goes on where one that did not has begun.
func TestAnAccountThatBecomesKnownIsTheSame(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.month("a")
	a.use("inbox", 510)
	w.stripe.SetFaults(func(r *http.Request, _ url.Values) stripetest.Fault {
		if r.URL.Path == "/v1/account" {
			return stripetest.Forbidden
		}
		return stripetest.NoFault
	})
	w.expect(w.report(), 1, 0)
	w.stripe.SetFaults(nil)
	a.use("inbox", 520)
	w.Reporter = w.reporter(MeterEvents)
	w.expect(w.report(), 1, 0)
	a.expectAt("inbox", 20)
}

// Nobody has said that Postgres was not restored beside a mirror that is gone.
func TestTheScheduledVerificationWaitsWithoutAMirror(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *stripetest.Options) { o.SummaryLag = 20 * time.Minute })
	a := w.month("a")
	a.use("inbox", 510)
	w.report()
	restore := w.backup()
	w.pass(30 * time.Minute)
	a.use("inbox", 525)
	w.report()
	restore()
	w.must(w.js.DeleteKeyValue(t.Context(), mirrorBucket))
	if v, err := w.Verify(context.Background(), false); !errors.Is(err, ErrRestored) || v.Released {
		t.Fatalf("released %t, %v", v.Released, err)
	}
	w.pass(2 * time.Hour)
	if _, err := w.Verify(context.Background(), false); err != nil {
		t.Fatal(err)
	}
	w.report()
	a.expectAt("inbox", 25)
}
