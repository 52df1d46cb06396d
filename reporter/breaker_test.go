package reporter

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"runtime"
	"testing"
	"time"

	"odometer/reporter/stripetest"
)

func TestOneRefusedCustomerStopsNoOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	all := w.crowd(40)
	bad := all[7]
	w.exec(`update subscriptions set stripe_customer = 'cus_nobody' where tenant_id = $1`, bad.id)
	result := w.report()
	w.expect(result, 39, 1)
	if left := result.Left[0]; left.State != "parked" || left.Tenant != bad.id.String() || left.Customer != "cus_nobody" {
		t.Errorf("left %+v", left)
	}
	if got := w.openFindings(kindParked); len(got) != 1 {
		t.Errorf("findings %v", got)
	}
	if !w.breaker.closed() {
		t.Error("a refusal has opened the breaker")
	}
	w.posts()
	w.pass(time.Hour)
	w.expect(w.scheduled(), 0, 1) // parked for a day
	if n := len(w.posts()); n != 0 {
		t.Errorf("%d calls for a parked link", n)
	}
	w.expect(w.report(), 0, 1) // by hand it is tried
	w.stripe.CreateCustomer("cus_nobody", nil)
	w.expect(w.report(), 1, 0)
	if got := w.openFindings(kindParked); len(got) != 0 {
		t.Errorf("findings %v", got)
	}
	if got := w.stripe.Total("cus_nobody", "inbox_overage", begin.AddDate(-1, 0, 0), begin.AddDate(1, 0, 0)); got != 10 {
		t.Errorf("told %d", got)
	}
}

func TestBreakerOpensAfterFiveCustomersAndChangesNoRow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *stripetest.Options) { o.Latency = 5 * time.Millisecond })
	all := w.crowd(80)
	w.posts()
	w.failTelling(stripetest.StoredError500Before)
	result, err := w.Pass(t.Context(), Scope{ByHand: true})
	w.must(err)
	sent := len(w.posts())
	if result.Stopped == "" || result.LeftCount != 80 || sent < tripAfter || sent > tripAfter+maxUnderWay {
		t.Errorf("%d calls, %d left, stopped by %q", sent, result.LeftCount, result.Stopped)
	}
	if most := w.stripe.MaxInFlight(); most > maxUnderWay {
		t.Errorf("%d calls were under way at once", most)
	}
	if n := w.untouched(); n != 80-sent {
		t.Errorf("%d links untouched after %d calls", n, sent)
	}
	w.awaitHalfOpen()
	w.report() // half open, one call finds out
	if n := len(w.posts()) - sent; n != 1 || w.breaker.closed() {
		t.Errorf("%d calls by a half-open breaker, now closed: %t", n, w.breaker.closed())
	}
	w.failTelling(stripetest.NoFault)
	w.awaitHalfOpen()
	w.pass(time.Minute)
	w.expect(w.report(), 80, 0)
	expectAllAt(all, 10)
}

// awaitHalfOpen waits for the end of the breaker's cooldown.
func (w *world) awaitHalfOpen() {
	for w.breaker.open() {
		runtime.Gosched()
	}
}

func TestOpenBreakerMakesNoCall(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	all := w.crowd(12)
	w.Options.BreakerCooldown = time.Hour
	r, err := New(w.Options)
	w.must(err)
	w.Reporter = r
	w.failTelling(stripetest.ResetBefore)
	_, _ = w.Pass(t.Context(), Scope{})
	untouched := w.untouched()
	w.failTelling(stripetest.NoFault)
	w.stripe.RecordCalls(true)
	for range 3 {
		w.pass(time.Hour)
		if result := w.report(); result.Stopped == "" {
			t.Error("a pass behind an open breaker does not say so")
		}
	}
	if n := len(w.stripe.Calls()); n != 0 || w.untouched() != untouched {
		t.Errorf("%d calls by an open breaker, %d links untouched, before %d", n, w.untouched(), untouched)
	}
	w.Reporter = w.reporter(MeterEvents)
	w.report()
	expectAllAt(all, 10)
}

func TestSameCustomerFailingDoesNotOpen(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a, b := w.month("a"), w.month("b")
	for _, agent := range []string{"inbox", "invoice", "meeting"} {
		a.use(agent, 600)
	}
	w.stripe.SetFaults(func(_ *http.Request, form url.Values) stripetest.Fault {
		if form.Get("payload[stripe_customer_id]") == a.customer {
			return stripetest.StoredError500Before
		}
		return stripetest.NoFault
	})
	for range 5 {
		w.expect(w.report(), 0, 3)
		w.pass(time.Hour)
	}
	b.use("inbox", 510)
	w.expect(w.report(), 1, 3)
	b.expectAt("inbox", 10)
	if !w.breaker.closed() {
		t.Error("one customer's failures have opened the breaker")
	}
}

func TestKeyRefusedStopsAndMarksNothing(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]stripetest.Fault{"401": stripetest.Unauthorized, "403": stripetest.Forbidden} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			all := w.crowd(50)
			w.posts()
			w.failTelling(fault)
			if _, err := w.Pass(t.Context(), Scope{ByHand: true}); !errors.Is(err, ErrKeyRefused) {
				t.Errorf("the pass ended with %v", err)
			}
			if n := len(w.posts()); n > maxUnderWay {
				t.Errorf("%d calls with a refused key", n)
			}
			if n := w.untouched(); n != 50 {
				t.Errorf("%d of 50 links are untouched", n)
			}
			if got := w.openFindings(kindStopped); len(got) != 1 {
				t.Errorf("findings %v", got)
			}
			w.failTelling(stripetest.NoFault)
			w.expect(w.report(), 50, 0)
			expectAllAt(all, 10)
		})
	}
}

func TestKeyThatOpensNothingStopsAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.crowd(3)
	w.stripe.SetFaults(func(*http.Request, url.Values) stripetest.Fault { return stripetest.Unauthorized })
	for range 2 {
		if _, err := w.Pass(t.Context(), Scope{}); !errors.Is(err, ErrKeyRefused) {
			t.Errorf("the pass ended with %v", err)
		}
	}
}

func TestArchivedMeterStopsEverything(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.month("a")
	a.use("inbox", 510)
	a.use("meeting", 40)
	w.stripe.ArchiveMeter("inbox_overage")
	if _, err := w.Pass(t.Context(), Scope{ByHand: true}); !errors.Is(err, ErrKeyRefused) {
		t.Errorf("the pass ended with %v", err)
	}
	a.expectAt("inbox", 0)
	w.stripe.CreateMeter("inbox_overage")
	w.report()
	a.expectAt("inbox", 10)
	a.expectAt("meeting", 10)
}

// Stripe asks half of the customers to slow down, once: all are told in the
// same pass, and later ones are as fast as ever.
func TestThrottledSlowsAndFinishes(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]stripetest.Fault{"rate_limit": stripetest.TooManyRequests, "lock_timeout": stripetest.LockTimeout} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			all := w.crowd(40)
			full := w.limit.Limit()
			n := w.onceEach(fault)
			w.expect(w.report(), 40, 0)
			expectAllAt(all, 10)
			if *n == 0 || w.limit.Limit() >= full {
				t.Errorf("after %d refusals the speed is %g of %g", *n, w.limit.Limit(), full)
			}
			for _, l := range all[0].links() {
				if l.Attempts != 1 || l.State != Taken {
					t.Errorf("the link is %+v", l)
				}
			}
			w.stripe.SetFaults(nil)
			for _, a := range all {
				a.use("inbox", 520)
			}
			for w.limit.Limit() < full && !t.Failed() {
				w.nudge(all)
			}
		})
	}
}

// nudge has every tenant told one unit more.
func (w *world) nudge(all []*tenant) {
	w.t.Helper()
	w.exec(`update usage_counters set count = count + 1`)
	before := w.limit.Limit()
	w.expect(w.report(), len(all), 0)
	if w.limit.Limit() <= before {
		w.t.Errorf("without refusals the speed stays at %g", before)
	}
}

// onceEach makes the first call of every second identifier fail, and counts.
func (w *world) onceEach(fault stripetest.Fault) *int {
	seen, n := map[string]bool{}, 0
	turn := make(chan struct{}, 1)
	w.stripe.SetFaults(func(_ *http.Request, form url.Values) stripetest.Fault {
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

func TestThrottledForGoodIsLeftAsItWas(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.month("a")
	a.use("inbox", 510)
	w.failTelling(stripetest.LockTimeout)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := w.Pass(ctx, Scope{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the pass ended with %v", err)
	}
	if n := w.untouched(); n != 1 {
		t.Error("a throttled link is marked")
	}
}
