package stripetest

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v76"
	"github.com/stripe/stripe-go/v76/webhook"
)

const secret = "whsec_test"

// webhookEndpoint verifies what it gets as the product does, fails as often as it is
// told, and passes the events on.
func webhookEndpoint(t *testing.T, failures int64) (url string, events chan stripe.Event) {
	t.Helper()
	events = make(chan stripe.Event, 100)
	var failed atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if failed.Add(1) <= failures {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		payload, _ := io.ReadAll(r.Body)
		e, err := webhook.ConstructEvent(payload, r.Header.Get("Stripe-Signature"), secret)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		events <- e
	}))
	t.Cleanup(server.Close)
	return server.URL, events
}

func (s *testEnv) hookTypes() (types []string) {
	for _, h := range s.Hooks() {
		types = append(types, h.Type)
	}
	return types
}

func TestPeriodSendsItsHooks(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	s.subscribe(func(sub *Subscription) { sub.CancelAtPeriodEnd = true })
	s.UpdateSubscription("sub_acme", func(sub *Subscription) { sub.CancelAtPeriodEnd = false })
	s.clock.set(monthEnd.Add(time.Hour))
	s.Advance()
	s.CancelSubscription("sub_acme", false)
	got := s.hookTypes()
	if story := []string{"customer.subscription.created", "customer.subscription.updated", "invoice.upcoming",
		"invoice.created", "customer.subscription.updated", "invoice.finalized", "customer.subscription.deleted",
	}; !slices.Equal(got, story) {
		t.Fatalf("got %v\nwant %v", got, story)
	}
}

func TestHooksAreSignedAndRetried(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	url, events := webhookEndpoint(t, 1)
	s.SendHooksTo(url, secret)
	s.subscribe(nil)
	select {
	case e := <-events:
		want(t, "type", string(e.Type), "customer.subscription.created")
		var sub stripe.Subscription
		must(t, json.Unmarshal(e.Data.Raw, &sub))
		want(t, "end", sub.CurrentPeriodEnd, monthEnd.Unix())
		want(t, "lookup key", sub.Items.Data[1].Price.LookupKey, inbox)
	case <-time.After(10 * time.Second):
		t.Fatal("no hook came")
	}
}

func TestHookCanBeRepeatedAndForged(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	url, events := webhookEndpoint(t, 0)
	s.subscribe(nil)
	h := s.Hooks()[0]
	for range 2 {
		status, err := s.Deliver(t.Context(), url, secret, h)
		must(t, err)
		want(t, "status", status, 200)
		want(t, "id", (<-events).ID, h.ID)
	}
	status, err := s.Deliver(t.Context(), url, "whsec_wrong", h)
	must(t, err)
	want(t, "forged", status, 400)
}

func TestAsyncRejectionIsReportedAndNotCounted(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	s.fail(RejectAsync)
	must(t, s.send("a", 7))
	want(t, "total", s.allTime(), 0)
	wantError(t, s.send("a", 7), 400, badRequest, "") // it was received
	var thin struct {
		Object        string
		RelatedObject struct{ ID string } `json:"related_object"`
		Data          *struct{}
	}
	h := s.Hooks()[0]
	want(t, "type", h.Type, "v1.billing.meter.error_report_triggered")
	must(t, json.Unmarshal(h.Payload, &thin))
	want(t, "object", thin.Object, "v2.core.event")
	want(t, "meter", thin.RelatedObject.ID, "mtr_"+inbox)
	want(t, "no data", thin.Data == nil, true)
}

// stripe-go v76 knows no thin events: their time is text, where it wants a
// number. Their signature is the same.
func TestAThinEventIsSignedButNotReadByTheClient(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	s.fail(RejectAsync)
	must(t, s.send("a", 7))
	h := s.Hooks()[0]
	signed := signature(time.Now(), secret, h.Payload)
	must(t, webhook.ValidatePayload(h.Payload, signed, secret))
	_, err := webhook.ConstructEventWithOptions(h.Payload, signed, secret,
		webhook.ConstructEventOptions{IgnoreAPIVersionMismatch: true})
	want(t, "refused", err != nil, true)
}

func TestHookHistoryIsBounded(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{HookHistory: 3})
	s.subscribe(nil)
	s.clock.set(start.AddDate(1, 0, 0))
	want(t, "hooks", len(s.Hooks()), 3)
}
