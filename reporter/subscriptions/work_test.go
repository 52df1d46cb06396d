package subscriptions

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"odometer/reporter/stripetest"
)

func (w *world) lookedAt() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	found := slices.Clone(w.looked)
	slices.Sort(found)
	return found
}

func TestAnInvoicesHookRollsItsSubscriptionAndAsksForALook(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.subscribe("1", acme, bundle, nil)
	w.follow()
	w.at("2026-12-02")
	w.stripe.Advance()
	var kinds []string
	for _, h := range w.take() {
		kinds = append(kinds, h.Type)
		if h.Type == invoiceCreated {
			w.deliver(h)
		}
	}
	w.want("hooks of a rollover", kinds, "invoice.upcoming", "invoice.created", "customer.subscription.updated", "invoice.finalized")
	w.work()
	w.wantAgreed("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01", "2026-12-01 2027-01-01")
	w.want("looked at", w.lookedAt(), "cus_1")
}

func TestEveryKindOfInvoiceHookAsksForALook(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.subscribe("1", acme, bundle, nil)
	w.at("2026-12-02")
	w.stripe.Advance()
	w.follow()
	w.deliver(stripetest.Hook{Payload: []byte(`{"id":"evt_c","type":"invoice.upcoming","data":{"object":{"customer":"cus_only"}}}`)})
	w.work()
	w.want("looked at", w.lookedAt(), "cus_1", "cus_1", "cus_1", "cus_only")
}

func TestAMeterErrorIsAFindingAndAsksForALookAtAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	for i, body := range []string{
		`{"id":"evt_1","object":"v2.core.event","created":"2026-11-01T00:00:00.000Z","type":"v1.billing.meter.error_report_triggered","related_object":{"id":"mtr_1"}}`,
		`{"id":"evt_2","object":"v2.core.event","created":"2026-11-01T00:00:00.000Z","type":"v1.billing.meter.error_report_triggered","related_object":{"id":"mtr_1"}}`,
		`{"id":"evt_3","object":"v2.core.event","created":"2026-11-01T00:00:00.000Z","type":"v1.billing.meter.no_meter_found","related_object":null}`,
	} {
		w.deliver(stripetest.Hook{Payload: []byte(body)})
		if n := w.work(); n != 1 {
			t.Errorf("hook %d: %d done", i, n)
		}
	}
	w.wantFindings("stripe_meter_error evt_1", "stripe_meter_error evt_2", "stripe_meter_error evt_3")
	w.want("looked at", w.lookedAt(), "", "", "")
	const where, what = ": samples are in Stripe's dashboard and at /v2/core/events/", "; what is missing is found by: odometer jobs run verify"
	w.want("details", w.texts(`select detail from audit_findings order by subject`),
		"Stripe could not count some meter events of meter mtr_1"+where+"evt_1"+what,
		"Stripe could not count some meter events of meter mtr_1"+where+"evt_2"+what,
		"Stripe has no meter for some meter events"+where+"evt_3"+what)
}

func TestALookThatFailsLeavesTheHook(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.deliver(stripetest.Hook{Payload: []byte(`{"id":"evt_c","type":"invoice.upcoming","data":{"object":{"customer":"cus_only"}}}`)})
	look := w.sync.look
	w.sync.look = func(context.Context, string) error { return http.ErrServerClosed }
	if n, err := w.sync.Work(t.Context()); n != 0 || err == nil {
		t.Errorf("%d done, %v", n, err)
	}
	w.sync.look = look
	if n := w.work(); n != 0 {
		t.Errorf("%d done before its time", n)
	}
	w.due()
	if n := w.work(); n != 1 {
		t.Errorf("%d done", n)
	}
}

// forbidInvoices lets the key have no right to read invoices.
func (w *world) forbidInvoices() {
	w.stripe.SetFaults(func(r *http.Request, _ url.Values) stripetest.Fault {
		if strings.HasPrefix(r.URL.Path, "/v1/invoices") {
			return stripetest.Forbidden
		}
		return stripetest.NoFault
	})
}

func TestHooksThatStripeRefusesKeepNoOtherFromBeingWorked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.subscribe("1", acme, bundle, nil)
	w.forbidInvoices()
	for i := range 6 * maxWorkers {
		w.deliver(hookOf(invoiceCreated, fmt.Sprintf("in_%d", i)))
	}
	w.deliver(w.take()...)
	n, err := w.sync.Work(t.Context())
	w.wantOneLine(err)
	if n != 1 || isAway(err) {
		t.Errorf("%d done, %v", n, err)
	}
	w.wantAgreed("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01")
	w.want("waiting", w.texts(`select distinct attempts || ' ' || regexp_replace(outcome, 'in_[0-9]+', 'in_N') from stripe_hooks where done_at is null`),
		"1 fetch invoice in_N: Stripe answered 403: The provided key does not have the required permissions for this endpoint.")
	if n := w.work(); n != 0 {
		t.Errorf("%d done before their time", n)
	}
}

func TestAStripeThatIsAwayIsLeftAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.stripe.SetFaults(func(*http.Request, url.Values) stripetest.Fault { return stripetest.Unavailable503 })
	const hooks = 4 * maxWorkers * maxFailures
	for i := range hooks {
		w.deliver(hookOf(invoiceCreated, fmt.Sprintf("in_%d", i)))
	}
	if n, err := w.sync.Work(t.Context()); n != 0 || !isAway(err) {
		t.Errorf("%d done, %v", n, err)
	}
	var tried int
	if err := w.pool.QueryRow(t.Context(), `select count(*) from stripe_hooks where attempts > 0`).Scan(&tried); err != nil {
		t.Fatal(err)
	}
	if tried < maxFailures || tried > maxWorkers*maxFailures {
		t.Errorf("%d of %d hooks were tried", tried, hooks)
	}
}

func TestAHookWaitsLongerEachTimeAndIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.forbidInvoices()
	h := hookOf(invoiceFinalized, "in_1")
	w.deliver(h)
	for i, wait := range []time.Duration{10 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 6 * time.Hour, 6 * time.Hour} {
		before := time.Now()
		w.due()
		if _, err := w.sync.Work(t.Context()); err == nil {
			t.Error("no error")
		}
		var attempts int
		var retry time.Time
		if err := w.pool.QueryRow(t.Context(), `select attempts, retry_at from stripe_hooks`).Scan(&attempts, &retry); err != nil {
			t.Fatal(err)
		}
		if late := retry.Sub(before) - wait; attempts != i+1 || late < -time.Second || late > 10*time.Second {
			t.Errorf("after attempt %d: %d attempts, waits %s, want %s", i+1, attempts, retry.Sub(before), wait)
		}
		if i+1 < stuckAfter {
			w.wantFindings()
		} else {
			w.wantFindings("stripe_hook_stuck " + h.ID)
		}
	}
	w.wantDetail(KindHookStuck, "invoice.finalized of in_1", "failed 7 times", "403: The provided key does not", "rights of the key")
	w.stripe.SetFaults(nil)
	w.due()
	if n := w.work(); n != 1 {
		t.Errorf("%d done", n)
	}
	w.wantFindings()
	w.want("resolved", w.texts(`select resolution from audit_findings`), "it is done: Stripe has no such invoice")
}

func TestARoundThatIsEndedCountsAgainstNoHook(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.deliver(stripetest.Hook{Payload: []byte(`{"id":"evt_c","type":"invoice.upcoming","data":{"object":{"customer":"cus_only"}}}`)})
	ctx, stop := context.WithCancel(t.Context())
	w.sync.look = func(context.Context, string) error { stop(); return ctx.Err() }
	if n, err := w.sync.Work(ctx); n != 0 || err == nil {
		t.Errorf("%d done, %v", n, err)
	}
	w.want("hooks", w.texts(`select attempts || coalesce(outcome, '') from stripe_hooks`), "0")
}

func TestSeveralProcessesShareTheHooks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	const n = 30
	var want []string
	for i := range n {
		customer := fmt.Sprintf("cus_%02d", i)
		want = append(want, customer)
		w.deliver(stripetest.Hook{Payload: fmt.Appendf(nil, `{"id":"evt_%d","type":"invoice.upcoming","data":{"object":{"customer":%q}}}`, i, customer)})
	}
	var group sync.WaitGroup
	var mu sync.Mutex
	done := 0
	for range 3 {
		group.Go(func() {
			k, err := w.sync.Work(t.Context())
			mu.Lock()
			defer mu.Unlock()
			if done += k; err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if done != n {
		t.Errorf("%d done, want %d", done, n)
	}
	w.want("looked at", w.lookedAt(), want...)
}

// Two workers that were told of one subscription must not write an older
// answer over a newer one: the first holds the lock while it waits for Stripe.
func TestAnOlderAnswerIsNotWrittenOverANewerOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	w.subscribe("1", acme, inbox, nil)
	w.take()
	asked, answer := make(chan struct{}, 2), make(chan struct{})
	w.editSubscriptions(func(map[string]any) { asked <- struct{}{}; <-answer })
	var group sync.WaitGroup
	settle := func() {
		if _, err := w.sync.settleAlone(t.Context(), "sub_1", byHook); err != nil {
			t.Error(err)
		}
	}
	group.Go(settle)
	<-asked // the first one's answer is on its way, and is old from here on
	w.update("1", func(s *stripetest.Subscription) { s.Items[1].PriceID = bundle })
	group.Go(settle)
	w.waitForLock()
	close(answer)
	group.Wait()
	w.wantAgreed("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01")
}

// waitForLock returns once a transaction waits for an advisory lock.
func (w *world) waitForLock() {
	w.t.Helper()
	const waiting = `select 'waits' from pg_locks where locktype = 'advisory' and not granted
		and database = (select oid from pg_database where datname = current_database())`
	for until := time.Now().Add(pause); len(w.texts(waiting)) == 0; {
		if time.Now().After(until) {
			w.t.Error("nobody waits for the lock")
			return
		}
	}
}

func TestRunWorksOffHooksWhenWoken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-11-01")
	looked := make(chan string, 2)
	w.sync.look = func(_ context.Context, customer string) error { looked <- customer; return nil }
	ctx, stop := context.WithCancel(t.Context())
	wake, over := make(chan struct{}), make(chan struct{})
	go func() { defer close(over); w.sync.Run(ctx, wake) }()
	for _, customer := range []string{"cus_1", "cus_2"} {
		w.deliver(stripetest.Hook{Payload: fmt.Appendf(nil, `{"id":%q,"type":"invoice.upcoming","data":{"object":{"customer":%q}}}`, uuid.NewString(), customer)})
		wake <- struct{}{}
		select {
		case got := <-looked:
			if got != customer {
				t.Errorf("looked at %s, want %s", got, customer)
			}
		case <-time.After(pause / 2):
			t.Fatal("not woken")
		}
	}
	stop()
	<-over
}
