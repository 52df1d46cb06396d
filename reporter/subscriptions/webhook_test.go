package subscriptions

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"odometer/reporter/stripetest"
)

func TestAHookIsStoredOnceAndWakesOnce(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.subscribe("1", acme, bundle, nil)
	created := env.take()[0]
	env.deliver(created, created, created)
	env.want("hooks", env.db.Texts(`select type || ' ' || object_id || ' ' || livemode from stripe_hooks`), "customer.subscription.created sub_1 false")
	if n := env.received.Load(); n != 1 {
		t.Errorf("woke %d times", n)
	}
	env.wantSubscriptions() // nothing is done before the answer
}

func TestUnsignedHookIsRefused(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	h := hookOf("customer.subscription.updated", "sub_1")
	for name, c := range map[string]struct {
		secret string
		body   []byte
	}{
		"another secret": {"whsec_other", h.Payload},
		"no secret":      {"", h.Payload},
		"not JSON":       {secret, []byte("{")},
		"no event":       {secret, []byte(`{"data":{}}`)},
		"too large":      {secret, append(bytes.Repeat([]byte(" "), maxBody), h.Payload...)},
	} {
		status, err := env.stripe.Deliver(t.Context(), env.hooks, c.secret, stripetest.Hook{Payload: c.body})
		if err != nil || status != http.StatusBadRequest {
			t.Errorf("%s: %d, %v", name, status, err)
		}
	}
	resp, err := http.Post(env.hooks, "application/json", bytes.NewReader(h.Payload))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest || resp.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("without a signature: %d %s", resp.StatusCode, resp.Header)
	}
	env.want("hooks", env.db.Texts(`select hook_id from stripe_hooks`))
}

func TestASecretCanBeReplacedWithoutLosingAHook(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	both := httptest.NewServer(Handler(env.db.Pool, "whsec_old, whsec_new", nil, env.sync.Log))
	defer both.Close()
	for _, secret := range []string{"whsec_old", "whsec_new"} {
		status, err := env.stripe.Deliver(t.Context(), both.URL, secret, hookOf("customer.subscription.updated", "sub_1"))
		if err != nil || status != http.StatusOK {
			t.Errorf("%s: %d, %v", secret, status, err)
		}
	}
	env.want("hooks", env.db.Texts(`select object_id from stripe_hooks`), "sub_1", "sub_1")
}

func TestHookWithoutSecretOrDatabaseGets503(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	body := hookOf("customer.subscription.updated", "sub_1")
	silent := slog.New(slog.DiscardHandler)
	unset := httptest.NewServer(Handler(env.db.Pool, "", nil, silent))
	defer unset.Close()
	for _, secret := range []string{"", secret} {
		if status, err := env.stripe.Deliver(t.Context(), unset.URL, secret, body); err != nil || status != http.StatusServiceUnavailable {
			t.Errorf("no secret set: %d, %v", status, err)
		}
	}
	env.db.Pool.Close()
	if status, err := env.stripe.Deliver(t.Context(), env.hooks, secret, body); err != nil || status != http.StatusServiceUnavailable {
		t.Errorf("no database: %d, %v", status, err)
	}
	rec := httptest.NewRecorder()
	unavailable(rec, "later")
	if rec.Header().Get("Retry-After") == "" || !strings.Contains(rec.Body.String(), "/problems/unavailable") {
		t.Errorf("%s %s", rec.Header(), rec.Body)
	}
}

func TestIrrelevantHookIsAnsweredAndNotStored(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.deliver(hookOf("charge.succeeded", "ch_1"),
		stripetest.Hook{Payload: []byte(`{"id":"evt_1","type":"x.y","data":{"object":{"id":7,"customer":[],"parent":"p"}},"related_object":"r"}`)})
	env.want("hooks", env.db.Texts(`select hook_id from stripe_hooks`))
}

func TestObjectOfEveryKindOfHookIsStored(t *testing.T) {
	t.Parallel()
	for want, body := range map[string]string{
		"sub_1": `{"id":"e","type":"customer.subscription.deleted","data":{"object":{"id":"sub_1","customer":"cus_1"}}}`,
		"in_1":  `{"id":"e","type":"invoice.created","data":{"object":{"id":"in_1","subscription":"sub_1"}}}`,
		"sub_2": `{"id":"e","type":"invoice.upcoming","data":{"object":{"customer":"cus_1","subscription":"sub_2"}}}`,
		"sub_3": `{"id":"e","type":"invoice.upcoming","data":{"object":{"id":"upcoming_in_1","customer":"cus_1","subscription":null,
			"parent":{"subscription_details":{"subscription":"sub_3"}}}}}`,
		"sub_4": `{"id":"e","type":"invoice.upcoming","data":{"object":{"subscription":{"id":"sub_4"}}}}`,
		"cus_1": `{"id":"e","type":"invoice.upcoming","data":{"object":{"customer":"cus_1"}}}`,
		"mtr_1": `{"id":"e","object":"v2.core.event","created":"2026-11-01T00:00:00.000Z","type":"v1.billing.meter.error_report_triggered",
			"related_object":{"id":"mtr_1","type":"billing.meter","url":"/v1/billing/meters/mtr_1"}}`,
		"": `{"id":"e","object":"v2.core.event","created":"2026-11-01T00:00:00.000Z","type":"v1.billing.meter.no_meter_found","related_object":null}`,
	} {
		h, err := parseHook([]byte(body))
		if err != nil || h.object != want || !h.isRelevant() {
			t.Errorf("%s: %+v, %v", body, h, err)
		}
	}
}

func FuzzAHookNeverBreaksTheHandler(f *testing.F) {
	f.Add([]byte(`{"id":"e","type":"invoice.upcoming","data":{"object":{"subscription":{"id":"sub_4"}}}}`))
	f.Add([]byte(`{"id":"e\u0000","type":"invoice.created","data":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		h, err := parseHook(body)
		if err == nil && (!isID(h.id) || !isID(h.kind) || h.object != "" && !isID(h.object)) {
			t.Errorf("%+v came through", h)
		}
	})
}
