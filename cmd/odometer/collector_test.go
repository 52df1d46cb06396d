package main

import "testing"

func TestGarbageIsCollectedSeldomWhereLittleLives(t *testing.T) {
	t.Parallel()
	for live, want := range map[uint64]int{
		0: mostPercent, 1 << 20: mostPercent, 16 << 20: 400, 64 << 20: 100, 96 << 20: roomPercent, 1 << 40: roomPercent,
	} {
		if got := gcPercent(live); got != want {
			t.Errorf("%d MiB live: %d %%, want %d %%", live>>20, got, want)
		}
	}
}
