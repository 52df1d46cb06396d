package reporter

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"testing"
	"time"

	"odometer/reporter/stripetest"
)

func TestRejectedCustomerStopsNoOther(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	all := env.tenantsOver(40)
	bad := all[7]
	env.db.Exec(`update subscriptions set stripe_customer = 'cus_nobody' where tenant_id = $1`, bad.id)
	result := env.report()
	env.expect(result, 39, 1)
	if left := result.Left[0]; left.State != "parked" || left.Tenant != bad.id || left.Customer != "cus_nobody" {
		t.Errorf("left %+v", left)
	}
	if got := env.openFindings(kindParked); len(got) != 1 {
		t.Errorf("findings %v", got)
	}
	if !env.sendBreaker.closed() {
		t.Error("a refusal has opened the breaker")
	}
	env.posts()
	env.advance(time.Hour)
	env.expect(env.scheduled(), 0, 1) // parked for a day
	if n := len(env.posts()); n != 0 {
		t.Errorf("%d calls for a parked entry", n)
	}
	env.expect(env.report(), 0, 1) // by hand it is tried
	env.stripe.CreateCustomer("cus_nobody", nil)
	env.expect(env.report(), 1, 0)
	if got := env.openFindings(kindParked); len(got) != 0 {
		t.Errorf("findings %v", got)
	}
	if got := env.stripe.Total("cus_nobody", "inbox_overage", begin.AddDate(-1, 0, 0), begin.AddDate(1, 0, 0)); got != 10 {
		t.Errorf("Stripe has %d", got)
	}
}

func TestBreakerOpensAfterFiveCustomersAndChangesNoEntry(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, func(o *stripetest.Options) { o.Latency = 5 * time.Millisecond })
	all := env.tenantsOver(80)
	env.posts()
	env.failSends(stripetest.StoredError500Before)
	result, err := env.Pass(t.Context(), Scope{ByHand: true})
	env.must(err)
	sent := len(env.posts())
	if result.Stopped == "" || result.LeftCount != 80 || sent < tripAfter || sent > tripAfter+maxConcurrentCalls {
		t.Errorf("%d calls, %d left, stopped by %q", sent, result.LeftCount, result.Stopped)
	}
	if most := env.stripe.MaxInFlight(); most > maxConcurrentCalls {
		t.Errorf("%d calls were under way at once", most)
	}
	if n := env.neverSent(); n != 80-sent {
		t.Errorf("%d entries untouched after %d calls", n, sent)
	}
	env.advance(breakerCooldown - 1)
	if env.report(); len(env.posts()) != sent {
		t.Errorf("%d calls during the cooldown", len(env.posts())-sent)
	}
	env.advance(1)
	env.report() // half open, one call decides
	if n := len(env.posts()) - sent; n != 1 || env.sendBreaker.closed() {
		t.Errorf("%d calls by a half-open breaker, now closed: %t", n, env.sendBreaker.closed())
	}
	env.failSends(stripetest.NoFault)
	env.advance(breakerCooldown)
	env.advance(time.Minute)
	env.expect(env.report(), 80, 0)
	expectMeterTotals(all, 10)
}

func TestOpenBreakerMakesNoCall(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	all := env.tenantsOver(12)
	env.Options.BreakerCooldown = 4 * time.Hour
	r, err := New(env.Options)
	env.must(err)
	env.Reporter = r
	env.failSends(stripetest.ResetBefore)
	_, _ = env.Pass(t.Context(), Scope{})
	untouched := env.neverSent()
	env.failSends(stripetest.NoFault)
	env.stripe.RecordCalls(true)
	for range 3 {
		env.advance(time.Hour)
		if result := env.report(); result.Stopped == "" {
			t.Error("a pass behind an open breaker does not say so")
		}
	}
	if n := len(env.stripe.Calls()); n != 0 || env.neverSent() != untouched {
		t.Errorf("%d calls by an open breaker, %d entries untouched, before %d", n, env.neverSent(), untouched)
	}
	env.Reporter = env.reporter(MeterEvents)
	env.report()
	expectMeterTotals(all, 10)
}

func TestSameCustomerFailingDoesNotOpen(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a, b := env.november("a"), env.november("b")
	for _, agent := range []string{"inbox", "invoice", "meeting"} {
		a.use(agent, 600)
	}
	env.stripe.SetFaults(func(_ *http.Request, form url.Values) stripetest.Fault {
		if form.Get("payload[stripe_customer_id]") == a.customer {
			return stripetest.StoredError500Before
		}
		return stripetest.NoFault
	})
	for range 5 {
		env.expect(env.report(), 0, 3)
		env.advance(time.Hour)
	}
	b.use("inbox", 510)
	env.expect(env.report(), 1, 3)
	b.expectMeterTotal("inbox", 10)
	if !env.sendBreaker.closed() {
		t.Error("one customer's failures have opened the breaker")
	}
}

func TestKeyRefusedStopsAndMarksNothing(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]stripetest.Fault{"401": stripetest.Unauthorized, "403": stripetest.Forbidden} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := newTestEnv(t, nil)
			all := env.tenantsOver(50)
			env.posts()
			env.failSends(fault)
			if _, err := env.Pass(t.Context(), Scope{ByHand: true}); !errors.Is(err, ErrKeyRefused) {
				t.Errorf("the pass ended with %v", err)
			}
			if n := len(env.posts()); n > maxConcurrentCalls {
				t.Errorf("%d calls with a refused key", n)
			}
			if n := env.neverSent(); n != 50 {
				t.Errorf("%d of 50 entries are untouched", n)
			}
			if got := env.openFindings(kindStopped); len(got) != 1 {
				t.Errorf("findings %v", got)
			}
			env.failSends(stripetest.NoFault)
			env.expect(env.report(), 50, 0)
			expectMeterTotals(all, 10)
		})
	}
}

func TestInvalidKeyStopsAtOnce(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	env.tenantsOver(3)
	env.stripe.SetFaults(func(*http.Request, url.Values) stripetest.Fault { return stripetest.Unauthorized })
	for range 2 {
		if _, err := env.Pass(t.Context(), Scope{}); !errors.Is(err, ErrKeyRefused) {
			t.Errorf("the pass ended with %v", err)
		}
	}
}

func TestArchivedMeterStopsEverything(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a := env.november("a")
	a.use("inbox", 510)
	a.use("meeting", 40)
	env.stripe.ArchiveMeter("inbox_overage")
	if _, err := env.Pass(t.Context(), Scope{ByHand: true}); !errors.Is(err, ErrKeyRefused) {
		t.Errorf("the pass ended with %v", err)
	}
	a.expectMeterTotal("inbox", 0)
	env.stripe.CreateMeter("inbox_overage")
	env.report()
	a.expectMeterTotal("inbox", 10)
	a.expectMeterTotal("meeting", 10)
}

// Stripe asks half of the customers to slow down, once: all are reported in the
// same pass, and later ones are as fast as ever.
func TestThrottledSlowsAndFinishes(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]stripetest.Fault{"rate_limit": stripetest.TooManyRequests, "lock_timeout": stripetest.LockTimeout} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := newTestEnv(t, nil)
			all := env.tenantsOver(40)
			full := env.sendLimit.Limit()
			n := env.onceEach(fault)
			env.expect(env.report(), 40, 0)
			expectMeterTotals(all, 10)
			if *n == 0 || env.sendLimit.Limit() >= full {
				t.Errorf("after %d refusals the speed is %g of %g", *n, env.sendLimit.Limit(), full)
			}
			for _, e := range all[0].entries() {
				if e.Attempts != 1 || e.State != Accepted {
					t.Errorf("the entry is %+v", e)
				}
			}
			env.stripe.SetFaults(nil)
			for _, a := range all {
				a.use("inbox", 520)
			}
			for env.sendLimit.Limit() < full && !t.Failed() {
				env.reportOneMore(all)
			}
		})
	}
}

// reportOneMore reports one unit more for every tenant.
func (env *testEnv) reportOneMore(all []*tenant) {
	env.t.Helper()
	env.db.Exec(`update usage_counters set count = count + 1`)
	before := env.sendLimit.Limit()
	env.expect(env.report(), len(all), 0)
	if env.sendLimit.Limit() <= before {
		env.t.Errorf("without refusals the speed stays at %g", before)
	}
}

// onceEach makes the first call of every second identifier fail, and counts.
func (env *testEnv) onceEach(fault stripetest.Fault) *int {
	seen, n := map[string]bool{}, 0
	turn := make(chan struct{}, 1)
	env.stripe.SetFaults(func(_ *http.Request, form url.Values) stripetest.Fault {
		turn <- struct{}{}
		defer func() { <-turn }()
		id := form.Get("identifier")
		if id == "" || seen[id] {
			return stripetest.NoFault
		}
		seen[id] = true
		if len(seen)%2 == 0 {
			return stripetest.NoFault
		}
		n++
		return fault
	})
	return &n
}

func TestAlwaysThrottledEntryIsLeftUnchanged(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a := env.november("a")
	a.use("inbox", 510)
	env.failSends(stripetest.LockTimeout)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := env.Pass(ctx, Scope{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the pass ended with %v", err)
	}
	if n := env.neverSent(); n != 1 {
		t.Error("a throttled entry is marked")
	}
}
