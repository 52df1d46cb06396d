package stripetest

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v76"
)

// fail lets the next request fail in a way, and only that.
func (s *testEnv) fail(f Fault) {
	var used atomic.Bool
	s.SetFaults(func(*http.Request, url.Values) Fault {
		if used.Swap(true) {
			return NoFault
		}
		return f
	})
}

func TestEachFaultAsTheClientSeesIt(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fault   Fault
		status  int // of Stripe's answer; 0 when the client gets none
		code    string
		applied int64
	}{
		"reset before":      {ResetBefore, 0, "", 0},
		"reset after":       {ResetAfter, 0, "", 1},
		"502 before":        {HTML502Before, 0, "", 0},
		"502 after":         {HTML502After, 0, "", 1},
		"truncated after":   {TruncatedAfter, 0, "", 1},
		"too many requests": {TooManyRequests, 429, "rate_limit", 0},
		"lock timeout":      {LockTimeout, 429, "lock_timeout", 0},
		"unauthorized":      {Unauthorized, 401, "", 0},
		"forbidden":         {Forbidden, 403, "", 0},
		"500 before":        {StoredError500Before, 500, "", 0},
		"500 after":         {StoredError500After, 500, "", 1},
		"503":               {Unavailable503, 503, "", 0},
		"400":               {InvalidRequest400, 400, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newTestEnv(t, Options{})
			s.fail(c.fault)
			err := s.send("a", 1)
			var e *stripe.Error
			switch {
			case err == nil:
				t.Fatal("the client saw no error")
			case c.status == 0 && errors.As(err, &e):
				t.Fatalf("got an answer: %v", e)
			case c.status != 0 && (!errors.As(err, &e) || e.HTTPStatusCode != c.status || string(e.Code) != c.code):
				t.Fatalf("got %v, want %d %q", err, c.status, c.code)
			}
			want(t, "applied", s.allTime(), c.applied)
		})
	}
}

func TestARequestThatHangsBeforeIsNotApplied(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	s.fail(HangBefore)
	wantTimeout(t, s)
	want(t, "applied", s.allTime(), 0)
}

func TestARequestThatHangsAfterIsApplied(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	s.fail(HangAfter)
	wantTimeout(t, s)
	want(t, "applied", s.allTime(), 1)
}

func wantTimeout(t *testing.T, s *testEnv) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	p := s.event("a", 1)
	p.Context = ctx
	_, err := s.stripe.BillingMeterEvents.New(p)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want a timeout", err)
	}
}

func TestReleaseLetsAHeldRequestLand(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	s.fail(HangBefore)
	hangs := make(chan struct{})
	s.onHang = func() { close(hangs) }
	var wg sync.WaitGroup
	var err error
	wg.Go(func() { err = s.send("a", 1) })
	<-hangs
	want(t, "held", s.allTime(), 0)
	s.Release()
	wg.Wait()
	must(t, err)
	want(t, "landed", s.allTime(), 1)
}

func TestStoredErrorIsReplayed(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	s.fail(StoredError500After)
	keyed := func(key string) error {
		p := s.event("a", 1)
		p.Timestamp = stripe.Int64(start.Unix())
		p.SetIdempotencyKey(key)
		_, err := s.stripe.BillingMeterEvents.New(p)
		return err
	}
	wantError(t, keyed("k1"), 500, stripe.ErrorTypeAPI, "")
	wantError(t, keyed("k1"), 500, stripe.ErrorTypeAPI, "")
	wantError(t, keyed("k2"), 400, badRequest, "") // the identifier shows that it was applied
	s.clock.move(24 * time.Hour)
	must(t, keyed("k1")) // both are forgotten
	want(t, "total", s.allTime(), 2)
}

func TestAKeyIsForOneSetOfParameters(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	keyed := func(value int64) error {
		p := s.event("a", value)
		p.SetIdempotencyKey("k")
		_, err := s.stripe.BillingMeterEvents.New(p)
		return err
	}
	must(t, keyed(1))
	must(t, keyed(1)) // a replay, not a second event
	wantError(t, keyed(2), 400, stripe.ErrorTypeIdempotency, "")
	want(t, "total", s.allTime(), 1)
}

func TestARefusedParameterIsNotKept(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	keyed := func(value string) error {
		p := s.event("a", 0)
		p.Payload["value"] = value
		p.SetIdempotencyKey("k")
		_, err := s.stripe.BillingMeterEvents.New(p)
		return err
	}
	wantError(t, keyed("none"), 400, badRequest, "meter_event_invalid_value")
	must(t, keyed("1"))
}

func TestAKeyInUseIsAConflict(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	executing, proceed := s.holdFirst()
	keyed := func() error {
		p := s.event("a", 1)
		p.SetIdempotencyKey("k")
		_, err := s.stripe.BillingMeterEvents.New(p)
		return err
	}
	var wg sync.WaitGroup
	var first error
	wg.Go(func() { first = keyed() })
	<-executing
	wantError(t, keyed(), 409, stripe.ErrorTypeIdempotency, "idempotency_key_in_use")
	proceed()
	wg.Wait()
	must(t, first)
}

func TestAnotherKeyIsRefused(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{Key: key})
	_, err := s.stripe.Accounts.Get()
	must(t, err)
	_, err = newClient(s.url, "sk_test_other_other_other").Accounts.Get()
	wantError(t, err, 401, badRequest, "")
}

func TestTheRateIsLimited(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{RateLimit: 2})
	var refusal error
	for range 4 {
		if _, err := s.stripe.Accounts.Get(); err != nil {
			refusal = err
		}
	}
	wantError(t, refusal, 429, badRequest, "rate_limit")
	var e *stripe.Error
	errors.As(refusal, &e)
	want(t, "Retry-After", e.LastResponse.Header.Get("Retry-After"), "1")
}

func TestAnUnknownPathIsUnrecognized(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	_, err := s.stripe.Products.Get("prod_1", nil)
	message := wantError(t, err, 404, badRequest, "")
	if !strings.HasPrefix(message, "Unrecognized request URL") {
		t.Fatalf("got %q", message)
	}
}

func TestCallsAreRecordedWhenAsked(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	must(t, s.send("a", 1))
	want(t, "calls", len(s.Calls()), 0)
	s.RecordCalls(true)
	s.fail(ResetBefore)
	_ = s.send("b", 1)
	must(t, s.send("c", 1))
	calls := s.Calls()
	want(t, "last status", calls[len(calls)-1].Status, 200)
	want(t, "identifier", calls[len(calls)-1].Form.Get("identifier"), "c")
	want(t, "lost", calls[0].Status, 0)
}
