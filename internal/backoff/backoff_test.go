package backoff

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestPausesDoubleUpToTheLongest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := Backoff{First: time.Second, Longest: 5 * time.Second}
		var got []time.Duration
		wait := func() {
			began := time.Now()
			if !b.Wait(t.Context()) {
				t.Error("Wait says that the context has ended")
			}
			got = append(got, time.Since(began))
		}
		for range 5 {
			wait()
		}
		b.Reset()
		wait()
		want := []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second, time.Second}
		if !slices.Equal(got, want) {
			t.Errorf("the pauses are %v, want %v", got, want)
		}
	})
}

func TestWaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b := Backoff{First: time.Hour, Longest: time.Hour}
	if b.Wait(ctx) {
		t.Error("Wait says to try again after the context has ended")
	}
}
