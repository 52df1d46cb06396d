package odometer_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"odometer"
)

func TestBackoffDoublesUpToItsMaximum(t *testing.T) {
	t.Parallel()
	b := odometer.Backoff{Min: time.Second, Max: 5 * time.Second}
	for range 2 {
		var got []time.Duration
		for range 5 {
			got = append(got, b.Next())
		}
		if want := []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second}; !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
		b.Reset()
	}
}

func TestBackoffEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b := odometer.Backoff{Min: time.Hour, Max: time.Hour}
	if err := b.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	b = odometer.Backoff{Min: time.Microsecond, Max: time.Microsecond}
	if err := b.Wait(t.Context()); err != nil {
		t.Errorf("got %v", err)
	}
}
