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

// errOpen says that a call was not made: nothing was sent.
var errOpen = errors.New("the breaker is open: Stripe has failed for five customers in a row")

// breaker keeps calls away from a Stripe that is in trouble. What counts
// against it:
//
//	time-out, reset, 5xx, unreadable   a failure, once per customer in a row
//	2xx, 400, 402, 404, 409            a success: Stripe is up
//	429                                neither: it asks for patience
//	401, 403, archived meter           neither: the pass ends by them
//	our own end, a failing Postgres    neither
//
// Open, it lets nothing through for the cooldown; then one call decides.
type breaker struct {
	gate *gobreaker.CircuitBreaker[struct{}]

	mu      sync.Mutex
	failing map[string]bool // customers of the failures since the last success
}

// callError is what a call for a customer came to.
type callError struct {
	customer string
	error
}

func (e *callError) Unwrap() error { return e.error }

// ourError is a failure on this side of the call.
type ourError struct{ error }

func (e *ourError) Unwrap() error { return e.error }

func newBreaker(cooldown time.Duration, m *Metrics) *breaker {
	b := &breaker{failing: map[string]bool{}}
	b.gate = gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Name:         "stripe",
		MaxRequests:  1,
		Timeout:      cooldown,
		IsSuccessful: b.succeeded,
		IsExcluded:   excluded,
		ReadyToTrip:  func(gobreaker.Counts) bool { return b.tripped() },
		OnStateChange: func(_ string, _, to gobreaker.State) {
			m.breakerState.Set(float64(to))
			if to == gobreaker.StateOpen {
				m.breakerTrips.Inc()
			}
		},
	})
	return b
}

// excluded is what says nothing about Stripe's health.
func excluded(err error) bool {
	var ours *ourError
	var e *stripe.Error
	switch {
	case errors.As(err, &ours), errors.Is(err, context.Canceled):
		return true
	case errors.As(err, &e):
		return e.HTTPStatusCode == http.StatusTooManyRequests || Judge(err, false) == Configuration
	}
	return false
}

func (b *breaker) succeeded(err error) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !strikes(err) {
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

// do makes a call for a customer unless the breaker keeps it away: then it
// returns errOpen, and call did not run.
func (b *breaker) do(customer string, call func() error) error {
	_, err := b.gate.Execute(func() (struct{}, error) {
		if err := call(); err != nil {
			return struct{}{}, &callError{customer, err}
		}
		return struct{}{}, nil
	})
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		return errOpen
	}
	var made *callError
	if errors.As(err, &made) {
		return made.error
	}
	return err
}

// closed reports whether calls may go out side by side; half open, one at a
// time finds out.
func (b *breaker) closed() bool { return b.gate.State() == gobreaker.StateClosed }

// open reports whether no call may go out at all.
func (b *breaker) open() bool { return b.gate.State() == gobreaker.StateOpen }
