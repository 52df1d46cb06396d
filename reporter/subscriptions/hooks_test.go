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

func (env *testEnv) recheckedCustomers() []string {
	env.mu.Lock()
	defer env.mu.Unlock()
	found := slices.Clone(env.rechecked)
	slices.Sort(found)
	return found
}

func TestInvoiceHookSyncsSubscriptionAndRechecks(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.subscribe("1", acme, bundle, nil)
	env.follow()
	env.at("2026-12-02")
	env.stripe.Advance()
	var kinds []string
	for _, h := range env.take() {
		kinds = append(kinds, h.Type)
		if h.Type == invoiceCreated {
			env.deliver(h)
		}
	}
	env.want("hooks of a rollover", kinds, "invoice.upcoming", "invoice.created", "customer.subscription.updated", "invoice.finalized")
	env.work()
	env.wantSubscriptions("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01", "2026-12-01 2027-01-01")
	env.want("rechecked", env.recheckedCustomers(), "cus_1")
}

func TestEveryInvoiceHookRechecks(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.subscribe("1", acme, bundle, nil)
	env.at("2026-12-02")
	env.stripe.Advance()
	env.follow()
	env.deliver(stripetest.Hook{Payload: []byte(`{"id":"evt_c","type":"invoice.upcoming","data":{"object":{"customer":"cus_only"}}}`)})
	env.work()
	env.want("rechecked", env.recheckedCustomers(), "cus_1", "cus_1", "cus_1", "cus_only")
}

func TestMeterErrorIsAFindingAndRechecksAll(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	for i, body := range []string{
		`{"id":"evt_1","object":"v2.core.event","created":"2026-11-01T00:00:00.000Z","type":"v1.billing.meter.error_report_triggered","related_object":{"id":"mtr_1"}}`,
		`{"id":"evt_2","object":"v2.core.event","created":"2026-11-01T00:00:00.000Z","type":"v1.billing.meter.error_report_triggered","related_object":{"id":"mtr_1"}}`,
		`{"id":"evt_3","object":"v2.core.event","created":"2026-11-01T00:00:00.000Z","type":"v1.billing.meter.no_meter_found","related_object":null}`,
	} {
		env.deliver(stripetest.Hook{Payload: []byte(body)})
		if n := env.work(); n != 1 {
			t.Errorf("hook %d: %d done", i, n)
		}
	}
	env.wantFindings("stripe_meter_error evt_1", "stripe_meter_error evt_2", "stripe_meter_error evt_3")
	env.want("rechecked", env.recheckedCustomers(), "", "", "")
	const where, what = ": samples are in Stripe's dashboard and at /v2/core/events/", "; what is missing is found by: odometer jobs run verify"
	env.want("details", env.db.Texts(`select detail from audit_findings order by subject`),
		"Stripe could not count some meter events of meter mtr_1"+where+"evt_1"+what,
		"Stripe could not count some meter events of meter mtr_1"+where+"evt_2"+what,
		"Stripe has no meter for some meter events"+where+"evt_3"+what)
}

func TestFailedRecheckKeepsTheHook(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.deliver(stripetest.Hook{Payload: []byte(`{"id":"evt_c","type":"invoice.upcoming","data":{"object":{"customer":"cus_only"}}}`)})
	recheck := env.sync.Recheck
	env.sync.Recheck = func(context.Context, string) error { return http.ErrServerClosed }
	if n, err := env.sync.Work(t.Context()); n != 0 || err == nil {
		t.Errorf("%d done, %v", n, err)
	}
	env.sync.Recheck = recheck
	if n := env.work(); n != 0 {
		t.Errorf("%d done before its time", n)
	}
	env.due()
	if n := env.work(); n != 1 {
		t.Errorf("%d done", n)
	}
}

// forbidInvoices lets the key have no right to read invoices.
func (env *testEnv) forbidInvoices() {
	env.stripe.SetFaults(func(r *http.Request, _ url.Values) stripetest.Fault {
		if strings.HasPrefix(r.URL.Path, "/v1/invoices") {
			return stripetest.Forbidden
		}
		return stripetest.NoFault
	})
}

func TestRefusedHooksDoNotBlockOthers(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.subscribe("1", acme, bundle, nil)
	env.forbidInvoices()
	for i := range 6 * maxWorkers {
		env.deliver(hookOf(invoiceCreated, fmt.Sprintf("in_%d", i)))
	}
	env.deliver(env.take()...)
	n, err := env.sync.Work(t.Context())
	env.wantOneLine(err)
	if n != 1 || isUnavailable(err) {
		t.Errorf("%d done, %v", n, err)
	}
	env.wantSubscriptions("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01")
	env.want("waiting", env.db.Texts(`select distinct attempts || ' ' || regexp_replace(outcome, 'in_[0-9]+', 'in_N') from stripe_hooks where done_at is null`),
		"1 fetch invoice in_N: Stripe answered 403: The provided key does not have the required permissions for this endpoint.")
	if n := env.work(); n != 0 {
		t.Errorf("%d done before their time", n)
	}
}

func TestUnavailableStripeIsNotCalledAgain(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.stripe.SetFaults(func(*http.Request, url.Values) stripetest.Fault { return stripetest.Unavailable503 })
	const hooks = 4 * maxWorkers * maxFailures
	for i := range hooks {
		env.deliver(hookOf(invoiceCreated, fmt.Sprintf("in_%d", i)))
	}
	if n, err := env.sync.Work(t.Context()); n != 0 || !isUnavailable(err) {
		t.Errorf("%d done, %v", n, err)
	}
	var tried int
	if err := env.db.Pool.QueryRow(t.Context(), `select count(*) from stripe_hooks where attempts > 0`).Scan(&tried); err != nil {
		t.Fatal(err)
	}
	if tried < maxFailures || tried > maxWorkers*maxFailures {
		t.Errorf("%d of %d hooks were tried", tried, hooks)
	}
}

func TestHookBacksOffAndBecomesAFinding(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.forbidInvoices()
	h := hookOf(invoiceFinalized, "in_1")
	env.deliver(h)
	for i, wait := range []time.Duration{10 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 6 * time.Hour, 6 * time.Hour} {
		before := time.Now()
		env.due()
		if _, err := env.sync.Work(t.Context()); err == nil {
			t.Error("no error")
		}
		var attempts int
		var retry time.Time
		if err := env.db.Pool.QueryRow(t.Context(), `select attempts, retry_at from stripe_hooks`).Scan(&attempts, &retry); err != nil {
			t.Fatal(err)
		}
		if late := retry.Sub(before) - wait; attempts != i+1 || late < -time.Second || late > 10*time.Second {
			t.Errorf("after attempt %d: %d attempts, waits %s, want %s", i+1, attempts, retry.Sub(before), wait)
		}
		if i+1 < stuckAfter {
			env.wantFindings()
		} else {
			env.wantFindings("stripe_hook_stuck " + h.ID)
		}
	}
	env.wantDetail(KindHookStuck, "invoice.finalized of in_1", "failed 7 times", "403: The provided key does not", "rights of the key")
	env.stripe.SetFaults(nil)
	env.due()
	if n := env.work(); n != 1 {
		t.Errorf("%d done", n)
	}
	env.wantFindings()
	env.want("resolved", env.db.Texts(`select resolution from audit_findings`), "it is done: Stripe has no such invoice")
}

func TestShutdownCountsAgainstNoHook(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.deliver(stripetest.Hook{Payload: []byte(`{"id":"evt_c","type":"invoice.upcoming","data":{"object":{"customer":"cus_only"}}}`)})
	ctx, stop := context.WithCancel(t.Context())
	env.sync.Recheck = func(context.Context, string) error { stop(); return ctx.Err() }
	if n, err := env.sync.Work(ctx); n != 0 || err == nil {
		t.Errorf("%d done, %v", n, err)
	}
	env.want("hooks", env.db.Texts(`select attempts || coalesce(outcome, '') from stripe_hooks`), "0")
}

func TestSeveralProcessesShareTheHooks(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	const n = 30
	var want []string
	for i := range n {
		customer := fmt.Sprintf("cus_%02d", i)
		want = append(want, customer)
		env.deliver(stripetest.Hook{Payload: fmt.Appendf(nil, `{"id":"evt_%d","type":"invoice.upcoming","data":{"object":{"customer":%q}}}`, i, customer)})
	}
	var group sync.WaitGroup
	var mu sync.Mutex
	done := 0
	for range 3 {
		group.Go(func() {
			k, err := env.sync.Work(t.Context())
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
	env.want("rechecked", env.recheckedCustomers(), want...)
}

// Two workers with hooks of one subscription must not write an older
// answer over a newer one: the first holds the lock while it waits for Stripe.
func TestOlderAnswerIsNotWrittenOverNewerOne(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.subscribe("1", acme, inbox, nil)
	env.take()
	asked, answer := make(chan struct{}, 2), make(chan struct{})
	env.editSubscriptions(func(map[string]any) { asked <- struct{}{}; <-answer })
	var group sync.WaitGroup
	settle := func() {
		if _, err := env.sync.syncAlone(t.Context(), "sub_1", byHook); err != nil {
			t.Error(err)
		}
	}
	group.Go(settle)
	<-asked // the first one's answer is on its way, and is old from here on
	env.update("1", func(s *stripetest.Subscription) { s.Items[1].PriceID = bundle })
	group.Go(settle)
	env.waitForLock()
	close(answer)
	group.Wait()
	env.wantSubscriptions("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01")
}

// waitForLock returns once a transaction waits for an advisory lock.
func (env *testEnv) waitForLock() {
	env.t.Helper()
	const waiting = `select 'waits' from pg_locks where locktype = 'advisory' and not granted
		and database = (select oid from pg_database where datname = current_database())`
	for until := time.Now().Add(pollInterval); len(env.db.Texts(waiting)) == 0; {
		if time.Now().After(until) {
			env.t.Error("nobody waits for the lock")
			return
		}
	}
}

func TestRunWorksOffHooksWhenWoken(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	rechecked := make(chan string, 2)
	env.sync.Recheck = func(_ context.Context, customer string) error { rechecked <- customer; return nil }
	ctx, stop := context.WithCancel(t.Context())
	wake, over := make(chan struct{}), make(chan struct{})
	go func() { defer close(over); env.sync.Run(ctx, wake) }()
	for _, customer := range []string{"cus_1", "cus_2"} {
		env.deliver(stripetest.Hook{Payload: fmt.Appendf(nil, `{"id":%q,"type":"invoice.upcoming","data":{"object":{"customer":%q}}}`, uuid.NewString(), customer)})
		wake <- struct{}{}
		select {
		case got := <-rechecked:
			if got != customer {
				t.Errorf("rechecked %s, want %s", got, customer)
			}
		case <-time.After(pollInterval / 2):
			t.Fatal("not woken")
		}
	}
	stop()
	<-over
}
