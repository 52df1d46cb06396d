// Package subscriptions keeps our subscriptions equal to Stripe's: who has which
// plan, and which billing period runs.
//
// Stripe reports changes by hooks, and hooks come twice, in any order, days late or
// never. So a hook is only a hint that an object may have changed. It is stored
// once and answered at once; afterwards the object is fetched with the pinned API
// version and applied. A job lists everything and does the same for what differs.
// What this guarantees:
//
//   - The order and number of hooks do not matter, nor whether they come:
//     after Compare our subscriptions are Stripe's.
//   - An older answer is never written over a newer one: fetching and writing
//     happen under one lock of the subscription, and writing under one of the
//     tenant.
//   - A closed period never changes, and an ended one keeps its plan and prices.
//     A change that Stripe dates back before that acts from its end on.
//   - What cannot be applied is never guessed: it becomes a finding that says
//     what to do, and is resolved when the subscription is right.
//   - One subscription per tenant. A second live one replaces nothing.
package subscriptions

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stripe/stripe-go/v76"
	"github.com/stripe/stripe-go/v76/client"

	"odometer"
)

// Sync applies Stripe's subscriptions to ours. It is safe for concurrent use,
// also by several processes. All its fields must be set.
type Sync struct {
	Pool *pgxpool.Pool
	// Stripe must not repeat calls by itself: a failed hook is retried.
	Stripe *client.API
	Now    func() time.Time
	Log    *slog.Logger
	// Recheck is called when a hook says that an invoice or a meter of a
	// customer has changed ("": any customer).
	Recheck func(ctx context.Context, customer string) error
}

const (
	// pollInterval is how often hooks are read without a wake-up: another
	// process may have stored them.
	pollInterval = 10 * time.Second
	// maxBackoff bounds the pause while hooks fail.
	maxBackoff = 5 * time.Minute
)

// Run processes hooks whenever wake fires and every ten seconds, until ctx
// ends. While Stripe is unavailable it pauses longer and longer, and ignores
// wake. Hooks that Stripe refuses delay no others.
func (s *Sync) Run(ctx context.Context, wake <-chan struct{}) {
	retry := odometer.Backoff{Min: 2 * pollInterval, Max: maxBackoff}
	for ctx.Err() == nil {
		woken, wait := wake, pollInterval
		_, err := s.Work(ctx)
		switch {
		case err == nil:
			retry.Reset()
		case ctx.Err() != nil:
		case isUnavailable(err):
			woken, wait = nil, retry.Next()
			s.Log.Error("processing Stripe's hooks failed", "reason", err, "retry_in", wait)
		default:
			s.Log.Error("some of Stripe's hooks failed and are retried later", "reason", err)
			retry.Reset()
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

// pageSize is how many subscriptions are listed and compared at once, the most
// that Stripe gives.
const pageSize = 100

// Compared is the result of a comparison.
type Compared struct {
	Listed   int // subscriptions at Stripe
	Changed  int // ours differed from Stripe's
	Findings int // that need a person
}

// comparison is one run of Compare.
type comparison struct {
	s        *Sync
	page     []*stripe.Subscription
	listed   []string // ids of all subscriptions so far
	figures  Compared
	first    error
	failures int // in a row
}

// Compare lists all subscriptions at Stripe and applies those that differ from
// ours, whatever became of the hooks: the job `subscriptions`. Where nothing
// differs it locks and fetches nothing. A subscription that fails does not stop
// the others; the first error is returned.
func (s *Sync) Compare(ctx context.Context) (Compared, error) {
	c := &comparison{s: s, listed: []string{}}
	if err := c.run(ctx); err != nil {
		return c.figures, fmt.Errorf("compare subscriptions: %w", err)
	}
	return c.figures, c.first
}

func (c *comparison) run(ctx context.Context) error {
	err := c.s.list(ctx, "", func(sub *stripe.Subscription) error {
		if c.page = append(c.page, sub); len(c.page) < pageSize {
			return nil
		}
		return c.comparePage(ctx)
	})
	if err != nil {
		return err
	}
	if err := c.comparePage(ctx); err != nil {
		return err
	}
	return c.compareUnlisted(ctx)
}

// comparePage compares what was listed since the last page.
func (c *comparison) comparePage(ctx context.Context) error {
	if len(c.page) == 0 {
		return nil
	}
	snap, err := load(ctx, c.s.Pool, c.page...)
	if err != nil {
		return err
	}
	now := c.s.Now()
	c.figures.Listed += len(c.page)
	for _, sub := range c.page {
		c.listed = append(c.listed, sub.ID)
		d := snap.decide(sub, now)
		if d.kind == "" && len(d.changes) == 0 && len(snap.openFindings[sub.ID]) == 0 {
			continue
		}
		if err := c.syncDiffering(ctx, sub.ID); err != nil {
			return err
		}
	}
	clear(c.page)
	c.page = c.page[:0]
	return nil
}

// syncDiffering syncs a subscription that differs. It returns an error when
// going on makes no sense.
func (c *comparison) syncDiffering(ctx context.Context, id string) error {
	done, err := c.s.syncAlone(ctx, id, byJob)
	if err == nil {
		if done.changed {
			c.figures.Changed++
		}
		if done.found {
			c.figures.Findings++
		}
		err = c.s.syncOthersOf(ctx, done.ended, byJob)
	}
	if err == nil {
		c.failures = 0
		return nil
	}
	if c.first == nil {
		c.first = fmt.Errorf("compare subscriptions: %w", err)
	}
	if c.failures++; c.failures >= maxFailures || ctx.Err() != nil {
		return err
	}
	return nil
}

// maxUnlisted bounds how many subscriptions are fetched one by one because the
// list lacks them. More are one mistake, like the key of another account.
const maxUnlisted = 100

const unlistedSQL = `
select stripe_subscription
from subscriptions
where stripe_subscription <> ''
  and stripe_subscription <> all($1::text[])
order by updated_at desc
limit $2`

// compareUnlisted syncs subscriptions that we have and Stripe's list lacks:
// created since, or gone.
func (c *comparison) compareUnlisted(ctx context.Context) error {
	rows, _ := c.s.Pool.Query(ctx, unlistedSQL, c.listed, maxUnlisted)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("find subscriptions that Stripe did not list: %w", err)
	}
	for _, id := range ids {
		if err := c.syncDiffering(ctx, id); err != nil {
			return err
		}
	}
	return nil
}
