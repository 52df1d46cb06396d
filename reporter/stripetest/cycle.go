package stripetest

import "time"

// cycle is how the periods of a subscription follow each other.
type cycle struct {
	anchor   time.Time
	interval string // day, week, month or year
	count    int64
}

// after is the first boundary of the cycle after t. Boundaries are counted from
// the anchor, so that one on the 31st is the 28th in February and the 31st again
// in March.
func (c cycle) after(t time.Time) time.Time {
	n := c.estimate(t)
	for !c.boundary(n - 1).Before(t) {
		n--
	}
	for !c.boundary(n).After(t) {
		n++
	}
	return c.boundary(n)
}

// estimate is the number of a boundary near t.
func (c cycle) estimate(t time.Time) int64 {
	days := int64(t.Sub(c.anchor) / (24 * time.Hour))
	months := int64(t.Year()-c.anchor.Year())*12 + int64(t.Month()-c.anchor.Month())
	switch c.interval {
	case "day":
		return days / c.count
	case "week":
		return days / (7 * c.count)
	case "year":
		return months / (12 * c.count)
	}
	return months / c.count
}

func (c cycle) boundary(n int64) time.Time {
	steps := int(n * c.count)
	switch c.interval {
	case "day":
		return c.anchor.AddDate(0, 0, steps)
	case "week":
		return c.anchor.AddDate(0, 0, 7*steps)
	case "year":
		return addMonths(c.anchor, 12*steps)
	}
	return addMonths(c.anchor, steps)
}

// addMonths keeps the day of the month where the month has it, and takes its
// last day where not.
func addMonths(t time.Time, n int) time.Time {
	first := time.Date(t.Year(), t.Month()+time.Month(n), 1, t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), t.Location())
	last := first.AddDate(0, 1, -1).Day()
	return first.AddDate(0, 0, min(t.Day(), last)-1)
}
