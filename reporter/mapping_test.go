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
	env := newTestEnv(t, nil)
	a := env.november("a")
	a.use("inbox", 510)
	old := *a
	env.stripe.CreateCustomer("cus_next", nil)
	a.customer = "cus_next"
	env.set(december.Add(time.Minute))
	a.subscribe(billing.SubscriptionChange{PlanID: plan500, Status: odometer.Active, Start: december, End: december.AddDate(0, 1, 0)})
	env.advance(20 * time.Minute)
	env.rollAndClose()
	env.expect(env.report(), 1, 0)
	old.expectMeterTotal("inbox", 10)
	a.expectMeterTotal("inbox", 0)
	env.advance(3 * time.Hour)
	env.report()
	if got := old.invoiced("inbox"); got != 10 {
		t.Errorf("the customer that the period had is invoiced %d, want 10", got)
	}
	expectSettled(t, a, true)
}

func TestOneCustomerBillsOneTenant(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a, b := env.november("a"), env.november("b")
	_, err := billing.Set(t.Context(), env.db.Pool, billing.SubscriptionChange{
		Tenant: b.id, PlanID: plan500, Status: odometer.Active, Interval: odometer.Monthly,
		Start: december.AddDate(0, -1, 0), End: december, StripeCustomer: &a.customer,
	}, env.time())
	if !errors.Is(err, billing.ErrRefused) || !strings.Contains(err.Error(), a.id.String()) {
		t.Errorf("a second tenant for %s: %v", a.customer, err)
	}
}

// Stripe accepts usage that no price bills: that is said, not settled silently.
func TestUsageWithoutAPriceIsAFinding(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a := env.november("a")
	env.stripe.UpdateSubscription(a.sub, func(s *stripetest.Subscription) {
		s.Items = append(s.Items[:1:1], s.Items[2:]...) // without inbox
	})
	a.use("inbox", 510)
	a.use("invoice", 60)
	env.report()
	env.set(december.Add(3 * time.Hour))
	env.rollAndClose()
	env.report()
	if got := env.openFindings(kindNotInvoiced); len(got) != 1 || !strings.HasSuffix(got[0], " inbox") {
		t.Errorf("findings %q", got)
	}
}

// Usage is reported also to a Stripe that answers no other call.
func TestFailedReadsStopNothing(t *testing.T) {
	t.Parallel()
	for name, refuse := range map[string]func(http.ResponseWriter){
		"plain 404":  func(w http.ResponseWriter) { http.Error(w, "404 page not found", http.StatusNotFound) },
		"empty 404":  func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) },
		"flat error": func(w http.ResponseWriter) { http.Error(w, `{"error":"not found"}`, http.StatusNotFound) },
		"plain 405":  func(w http.ResponseWriter) { http.Error(w, "no", http.StatusMethodNotAllowed) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := newTestEnv(t, nil)
			stingy := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if strings.HasPrefix(r.URL.Path, "/v1/billing/meter_events") {
					env.stripe.ServeHTTP(rw, r)
					return
				}
				refuse(rw)
			}))
			t.Cleanup(stingy.Close)
			env.url = stingy.URL
			env.Reporter = env.reporter(MeterEvents)
			a := env.november("a")
			a.use("inbox", 510)
			env.expect(env.report(), 1, 0)
			env.set(december.Add(20 * time.Minute))
			a.use("inbox", 0)
			env.db.Exec(`update usage_counters set count = 520 where tenant_id = $1 and period_start < $2`, a.id, december)
			env.rollAndClose()
			env.expect(env.report(), 1, 0)
			a.expectMeterTotal("inbox", 20)
		})
	}
}

// A key that says whose it is goes on where one that did not has begun.
func TestAccountThatBecomesKnownIsTheSame(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a := env.november("a")
	a.use("inbox", 510)
	env.stripe.SetFaults(func(r *http.Request, _ url.Values) stripetest.Fault {
		if r.URL.Path == "/v1/account" {
			return stripetest.Forbidden
		}
		return stripetest.NoFault
	})
	env.expect(env.report(), 1, 0)
	env.stripe.SetFaults(nil)
	a.use("inbox", 520)
	env.Reporter = env.reporter(MeterEvents)
	env.expect(env.report(), 1, 0)
	a.expectMeterTotal("inbox", 20)
}

// Nobody has said that Postgres was not restored beside a mirror that is gone.
func TestTheScheduledVerificationWaitsWithoutAMirror(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, func(o *stripetest.Options) { o.SummaryLag = 20 * time.Minute })
	a := env.november("a")
	a.use("inbox", 510)
	env.report()
	restore := env.backup()
	env.advance(30 * time.Minute)
	a.use("inbox", 525)
	env.report()
	restore()
	env.must(env.js.DeleteKeyValue(t.Context(), mirrorBucket))
	if v, err := env.Verify(context.Background(), false); !errors.Is(err, ErrRestored) || v.Released {
		t.Fatalf("released %t, %v", v.Released, err)
	}
	env.advance(2 * time.Hour)
	if _, err := env.Verify(context.Background(), false); err != nil {
		t.Fatal(err)
	}
	env.report()
	a.expectMeterTotal("inbox", 25)
}
