package odometer_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"odometer"
)

func day(s string) time.Time {
	t, err := time.Parse(time.RFC3339, s+"T00:00:00Z")
	if err != nil {
		panic(err)
	}
	return t
}

func TestMonthsKeepTheAnchorsDay(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		interval odometer.Interval
		anchor   string
		want     []string
	}{
		{odometer.Monthly, "2026-01-31", []string{"2026-02-28", "2026-03-31", "2026-04-30", "2026-05-31"}},
		{odometer.Monthly, "2027-12-30", []string{"2028-01-30", "2028-02-29", "2028-03-30"}},
		{odometer.Monthly, "2026-11-15", []string{"2026-12-15", "2027-01-15"}},
		{odometer.Yearly, "2028-02-29", []string{"2029-02-28", "2030-02-28", "2031-02-28", "2032-02-29"}},
		{odometer.Weekly, "2026-12-28", []string{"2027-01-04", "2027-01-11"}},
		{odometer.Daily, "2026-02-28", []string{"2026-03-01", "2026-03-02"}},
	} {
		at := day(c.anchor)
		for _, want := range c.want {
			next, ok := c.interval.Next(day(c.anchor), at)
			if !ok || !next.Equal(day(want)) {
				t.Errorf("%s after %s, anchored at %s: %s, want %s", c.interval, at, c.anchor, next, want)
			}
			at = next
		}
	}
}

func TestNextIsTheFirstBoundaryAfter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		interval := rapid.SampledFrom([]odometer.Interval{odometer.Daily, odometer.Weekly, odometer.Monthly, odometer.Yearly}).Draw(t, "interval")
		anchor := time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "anchor"), 0).UTC()
		at := time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "at"), 0).UTC()
		next, ok := interval.Next(anchor, at)
		if !ok || !next.After(at) || next.Before(anchor) {
			t.Fatalf("%s after %s: %s, %v", interval, at, next, ok)
		}
		if before, _ := interval.Next(anchor, next.Add(-time.Second)); !before.Equal(next) {
			t.Fatalf("%s: %s comes between %s and %s", interval, before, at, next)
		}
		if next.Equal(anchor) {
			return
		}
		if got := interval.Anchor(anchor, next); !got.Equal(anchor) {
			t.Fatalf("%s: anchor of [%s, %s) is %s", interval, anchor, next, got)
		}
	})
}

func TestAnOddFirstPeriodIsFollowedByRegularOnes(t *testing.T) {
	t.Parallel()
	start, end := day("2026-11-03"), day("2026-11-20")
	if got := odometer.Monthly.Anchor(start, end); !got.Equal(end) {
		t.Errorf("anchor %s, want the end", got)
	}
}

func TestAPeriodOfNoIntervalHasNoNext(t *testing.T) {
	t.Parallel()
	if next, ok := odometer.Once.Next(day("2026-11-01"), day("2026-12-01")); ok {
		t.Errorf("next %s, want none", next)
	}
}
