package stripetest

import (
	"errors"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v76"
	"github.com/stripe/stripe-go/v76/client"
)

// clock is the time of a test; it stands still until it is moved.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func (c *clock) set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = t
}

// stage is a stand-in with a customer, a meter and the real client.
type testEnv struct {
	*Server
	clock  *clock
	stripe *client.API
	url    string
}

const (
	inbox = "inbox_overage"
	acme  = "cus_acme"
	key   = "sk_test_4eC39HqLyjWDarjtT1zdp7dc"
)

var start = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

func newTestEnv(t *testing.T, o Options) *testEnv {
	t.Helper()
	c := &clock{now: start}
	o.Now = c.Now
	s := New(o)
	s.CreateCustomer(acme, map[string]string{"tenant": "acme"})
	s.CreateMeter(inbox)
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	t.Cleanup(s.Release)
	return &testEnv{Server: s, clock: c, stripe: newClient(server.URL, key), url: server.URL}
}

// holdFirst holds the first request that executes until proceed is called;
// executing is closed once it is held.
func (s *testEnv) holdFirst() (executing <-chan struct{}, proceed func()) {
	held, released := make(chan struct{}), make(chan struct{})
	var requests atomic.Int64
	s.onExecute = func() {
		if requests.Add(1) == 1 {
			close(held)
			<-released
		}
	}
	return held, func() { close(released) }
}

func newClient(url, key string) *client.API {
	return client.New(key, &stripe.Backends{API: stripe.GetBackendWithConfig(stripe.APIBackend, &stripe.BackendConfig{
		URL: stripe.String(url), MaxNetworkRetries: stripe.Int64(0), EnableTelemetry: stripe.Bool(false),
		LeveledLogger: &stripe.LeveledLogger{Level: stripe.LevelNull}})})
}

// event is a meter event for acme's inbox, now.
func (s *testEnv) event(identifier string, value int64) *stripe.BillingMeterEventParams {
	return &stripe.BillingMeterEventParams{EventName: stripe.String(inbox), Identifier: stripe.String(identifier),
		Payload:   map[string]string{"stripe_customer_id": acme, "value": strconv.FormatInt(value, 10)},
		Timestamp: stripe.Int64(s.clock.Now().Unix())}
}

func (s *testEnv) send(identifier string, value int64) error {
	_, err := s.stripe.BillingMeterEvents.New(s.event(identifier, value))
	return err
}

// allTime is what was counted for acme's inbox.
func (s *testEnv) allTime() int64 {
	return s.Total(acme, inbox, start.AddDate(-1, 0, 0), start.AddDate(1, 0, 0))
}

func (s *testEnv) subscribe(change func(*Subscription)) {
	sub := Subscription{ID: "sub_acme", Customer: acme, Start: start, Items: []Item{
		{LookupKey: "base", UnitAmountDecimal: "9900"},
		{LookupKey: inbox, Meter: inbox, Metered: true, UnitAmountDecimal: "0.5"},
		{ID: "si_legacy", LookupKey: "legacy", Metered: true, UnitAmountDecimal: "2"}}}
	if change != nil {
		change(&sub)
	}
	s.CreateSubscription(sub)
}

// quantity is what an invoice bills for a lookup key; -1 when it has no line.
func quantity(inv Invoice, lookupKey string) int64 {
	for _, line := range inv.Lines {
		if line.LookupKey == lookupKey {
			return line.Quantity
		}
	}
	return -1
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantError holds an error of the client against a status, a type and a code.
func wantError(t *testing.T, err error, status int, kind stripe.ErrorType, code string) (message string) {
	t.Helper()
	var e *stripe.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %T %v, want an answer of Stripe", err, err)
	}
	if e.HTTPStatusCode != status || e.Type != kind || string(e.Code) != code {
		t.Fatalf("got %d %s %q (%s), want %d %s %q", e.HTTPStatusCode, e.Type, e.Code, e.Msg, status, kind, code)
	}
	return e.Msg
}

func want[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: got %v, want %v", what, got, want)
	}
}
