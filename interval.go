package odometer

import (
	"fmt"
	"time"
)

// Interval is the length of a billing period.
type Interval string

const (
	Daily   Interval = "day"
	Weekly  Interval = "week"
	Monthly Interval = "month"
	Yearly  Interval = "year"
	Once    Interval = "none" // the period does not roll over
)

// ParseInterval reads an interval; the error names the accepted ones.
func ParseInterval(s string) (Interval, error) {
	switch i := Interval(s); i {
	case Daily, Weekly, Monthly, Yearly, Once:
		return i, nil
	}
	return "", fmt.Errorf("interval %q: want day, week, month, year or none", s)
}

// boundary is the k-th boundary of the grid of periods that begins at anchor.
// Months keep the anchor's day and fall back to the last day of a shorter
// month: 31 January, 28 February, 31 March. It is computed from the anchor each
// time, so that a short month leaves no trace in the later ones.
func (i Interval) boundary(anchor time.Time, k int) time.Time {
	anchor = anchor.UTC()
	switch i {
	case Daily:
		return anchor.AddDate(0, 0, k)
	case Weekly:
		return anchor.AddDate(0, 0, 7*k)
	case Yearly:
		return addMonths(anchor, 12*k)
	default:
		return addMonths(anchor, k)
	}
}

func addMonths(t time.Time, n int) time.Time {
	first := time.Date(t.Year(), t.Month(), 1, t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC).AddDate(0, n, 0)
	last := first.AddDate(0, 1, -1).Day()
	return first.AddDate(0, 0, min(t.Day(), last)-1)
}

// Next is the first boundary of the anchor's grid after t; the anchor itself
// is one. ok is false when the interval does not roll.
func (i Interval) Next(anchor, t time.Time) (next time.Time, ok bool) {
	if i == Once {
		return time.Time{}, false
	}
	k := max(0, i.estimate(t.Sub(anchor)))
	for !i.boundary(anchor, k).After(t) {
		k++
	}
	return i.boundary(anchor, k), true
}

// estimate is a number of intervals that d surely spans, by their greatest length.
func (i Interval) estimate(d time.Duration) int {
	const day = 24 * time.Hour
	longest := map[Interval]time.Duration{Daily: day, Weekly: 7 * day, Monthly: 31 * day, Yearly: 366 * day}[i]
	return int(d / longest)
}

// Anchor is the point from which a subscription's periods are counted: the
// start of a period that is a whole number of intervals long, else its end, so
// that an odd first period is followed by regular ones.
func (i Interval) Anchor(start, end time.Time) time.Time {
	if i == Once {
		return start
	}
	for k := max(1, i.estimate(end.Sub(start))); ; k++ {
		switch b := i.boundary(start, k); {
		case b.Equal(end):
			return start
		case b.After(end):
			return end
		}
	}
}
