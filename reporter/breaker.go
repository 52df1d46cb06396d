package reporter

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"
	"github.com/stripe/stripe-go/v76"
)

// tripAfter is how many failures in a row, of different customers, open the breaker.
const tripAfter = 5

// errBreakerOpen says that a call was not made: nothing was sent.
var errBreakerOpen = errors.New("the breaker is open: Stripe has failed for five customers in a row")

// breaker keeps calls away from a Stripe that is in trouble. What counts
// against it:
//
//	time-out, reset, 5xx, unreadable   a failure, once per customer in a row
//	2xx, 400, 402, 404, 409            a success: Stripe is up
//	429                                neither: Stripe is up but busy
//	401, 403, archived meter           neither: the pass ends by them
//	our own end, a failing Postgres    neither
//
// Open, it lets no call through for the cooldown; then one call decides. The
// cooldown is measured by our clock: gobreaker has its own and cannot be given
// another, so its cooldown is a nanosecond and openUntil stands in front of it.
type breaker struct {
	gate     *gobreaker.CircuitBreaker[struct{}]
	now      func() time.Time
	cooldown time.Duration

	mu        sync.Mutex
	failing   map[string]bool // customers of the failures since the last success
	openUntil time.Time
}

// callError is the error of a call for a customer.
type callError struct {
	customer string
	error
}

func (e *callError) Unwrap() error { return e.error }

// ourError is an error on our side of the call.
type ourError struct{ error }

func (e *ourError) Unwrap() error { return e.error }

func newBreaker(cooldown time.Duration, now func() time.Time, m *Metrics) *breaker {
	b := &breaker{now: now, cooldown: cooldown, failing: map[string]bool{}}
	b.gate = gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Name:         "stripe",
		MaxRequests:  1,
		Timeout:      time.Nanosecond,
		IsSuccessful: b.succeeded,
		IsExcluded:   excluded,
		ReadyToTrip:  func(gobreaker.Counts) bool { return b.tripped() },
		OnStateChange: func(_ string, _, to gobreaker.State) {
			if to == gobreaker.StateOpen {
				b.startCooldown()
				m.breakerTrips.Inc()
			}
		},
	})
	m.breaker.Store(b)
	return b
}

func (b *breaker) startCooldown() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.openUntil = b.now().Add(b.cooldown)
}

func (b *breaker) coolingDown() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now().Before(b.openUntil)
}

// state is gobreaker's state, or open during the cooldown.
func (b *breaker) state() gobreaker.State {
	if b.coolingDown() {
		return gobreaker.StateOpen
	}
	return b.gate.State()
}

// excluded reports whether an error says nothing about Stripe's health.
func excluded(err error) bool {
	var ours *ourError
	var e *stripe.Error
	switch {
	case errors.As(err, &ours), errors.Is(err, context.Canceled), errors.Is(err, errBreakerOpen):
		return true
	case errors.As(err, &e):
		return e.HTTPStatusCode == http.StatusTooManyRequests || Classify(err, false) == OutcomeConfiguration
	}
	return false
}

func (b *breaker) succeeded(err error) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !isStripeFailure(err) {
		clear(b.failing)
		return true
	}
	var call *callError
	if errors.As(err, &call) {
		b.failing[call.customer] = true
	}
	return false
}

func (b *breaker) tripped() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.failing) >= tripAfter
}

// do makes a call for a customer unless the breaker prevents it: then it
// returns errBreakerOpen, and call did not run.
func (b *breaker) do(customer string, call func() error) error {
	_, err := b.gate.Execute(func() (struct{}, error) {
		if b.coolingDown() {
			return struct{}{}, errBreakerOpen
		}
		if err := call(); err != nil {
			return struct{}{}, &callError{customer, err}
		}
		return struct{}{}, nil
	})
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		return errBreakerOpen
	}
	var made *callError
	if errors.As(err, &made) {
		return made.error
	}
	return err
}

// closed reports whether calls may run concurrently; half open, one call decides.
func (b *breaker) closed() bool { return b.state() == gobreaker.StateClosed }
