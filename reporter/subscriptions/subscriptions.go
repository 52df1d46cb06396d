// Package subscriptions brings Stripe's subscriptions to us: who has which
// plan, and which billing period runs.
//
// Stripe tells of changes by hooks, and hooks come twice, in any order, days
// late or never. So a hook is only a hint that something is worth a look. It
// is stored once and answered at once; afterwards the object is fetched anew
// by the pinned API version, and what was fetched is brought into the books.
// A job lists everything and does the same for what differs. What this
// guarantees:
//
//   - The order and number of hooks do not matter, nor whether they come:
//     after Compare the books say what Stripe says.
//   - An older answer is never written over a newer one: fetching and writing
//     happen under one lock of the subscription, and writing under one of the
//     tenant.
//   - A closed period never changes, and one that has ended keeps its terms.
//     A change that Stripe dates back before that acts from its end on.
//   - What we cannot bring in is never guessed: it becomes a finding that says
//     what to do, and goes away when it has become right.
//   - One subscription per tenant. A second one that is live replaces nothing.
package subscriptions

import (
	"context"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stripe/stripe-go/v76/client"
)

// Options are what a Sync works with.
type Options struct {
	Pool *pgxpool.Pool
	// Stripe must not repeat calls by itself: a failed hook is tried again.
	Stripe *client.API
	Now    func() time.Time
	Log    *slog.Logger
	// Look is called when a hook says that an invoice or a meter of a customer
	// needs a look ("": of all); nil: nothing.
	Look func(ctx context.Context, customer string) error
}

// Sync brings Stripe's subscriptions into our books. It is safe for
// concurrent use, also by several processes.
type Sync struct {
	pool   *pgxpool.Pool
	stripe *client.API
	now    func() time.Time
	log    *slog.Logger
	look   func(ctx context.Context, customer string) error
}

// New makes a Sync.
func New(o Options) *Sync {
	s := &Sync{pool: o.Pool, stripe: o.Stripe, now: o.Now, log: o.Log, look: o.Look}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.look == nil {
		s.look = func(context.Context, string) error { return nil }
	}
	return s
}

const (
	// pause is how often hooks are looked for without being woken: another
	// process may have stored them.
	pause = 10 * time.Second
	// longestPause bounds the back-off while hooks fail.
	longestPause = 5 * time.Minute
)

// Run works off hooks whenever wake fires and every ten seconds, until ctx
// ends. While Stripe is away it waits longer and longer, and is not woken; what
// it refuses holds nothing up.
func (s *Sync) Run(ctx context.Context, wake <-chan struct{}) {
	wait := pause
	for ctx.Err() == nil {
		woken := wake
		_, err := s.Work(ctx)
		switch {
		case err == nil:
			wait = pause
		case ctx.Err() != nil:
		case isAway(err):
			s.log.Error("work on Stripe's hooks", "err", err, "again_in", wait)
			woken, wait = nil, min(2*wait, longestPause)
		default:
			s.log.Error("some of Stripe's hooks failed and wait", "err", err)
			wait = pause
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		case _, open := <-woken:
			if !open {
				wake = nil
			}
		}
	}
}
