// Package backoff waits between attempts, longer after each one, so that a
// dependency that is away is not asked all the time.
package backoff

import (
	"context"
	"time"
)

// Backoff is the pause before the next attempt. It starts with First and
// doubles up to Longest.
type Backoff struct {
	First, Longest time.Duration

	next time.Duration
}

// Wait waits and reports whether to try again: false when ctx has ended.
func (b *Backoff) Wait(ctx context.Context) bool {
	pause := min(max(b.next, b.First), b.Longest)
	b.next = 2 * pause
	select {
	case <-ctx.Done():
		return false
	case <-time.After(pause):
		return ctx.Err() == nil
	}
}

// Reset makes the next pause the first again, after an attempt that worked.
func (b *Backoff) Reset() { b.next = 0 }
