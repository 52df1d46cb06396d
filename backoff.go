package odometer

import (
	"context"
	"time"
)

// Backoff is a pause between attempts that doubles from Min to Max.
type Backoff struct {
	Min, Max time.Duration

	last time.Duration // the pause before this one; 0: none yet
}

// Next returns the next pause.
func (b *Backoff) Next() time.Duration {
	b.last = min(max(2*b.last, b.Min), b.Max)
	return b.last
}

// Reset begins with Min again.
func (b *Backoff) Reset() { b.last = 0 }

// Wait waits for the next pause, or returns ctx's error when that ends before.
func (b *Backoff) Wait(ctx context.Context) error { return Sleep(ctx, b.Next()) }

// Sleep waits, or returns ctx's error when that ends before.
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
