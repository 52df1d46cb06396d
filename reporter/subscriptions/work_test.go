package subscriptions

import (
	"context"
	"fmt"
	"net/http"
	"slices"
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
	w.wantFindings("stripe_meter_error mtr_1", "stripe_meter_error v1.billing.meter.no_meter_found")
	w.want("looked at", w.lookedAt(), "", "", "")
	w.want("details", w.texts(`select substring(detail from '/v2/core/events/evt_[0-9].*') from audit_findings order by subject`),
		"/v2/core/events/evt_2; what is missing is found by: odometer jobs run verify",
		"/v2/core/events/evt_3; what is missing is found by: odometer jobs run verify")
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
	if n := w.work(); n != 1 {
		t.Errorf("%d done", n)
	}
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
