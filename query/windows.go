package query

import (
	"time"
	_ "time/tzdata" // zones are known also where the machine has no list of them
)

// Window is the length of a history's buckets.
type Window string

// The windows are those of a time zone. A day on which the clock is changed has
// 23 or 25 hours. An hour is an hour, whatever the clock says; where a zone
// changes by half an hour it is cut there.
const (
	ByHour  Window = "hour"
	ByDay   Window = "day"
	ByMonth Window = "month"
)

// edges are where the windows that cover [from, to) begin and end: in order,
// all different, the first at or before from, the last at or after to.
func (w Window) edges(from, to time.Time, zone *time.Location) []time.Time {
	year, month, day := from.In(zone).Date()
	var edges []time.Time
	switch w {
	case ByHour:
		edges = hours(firstInstant(date(year, month, day), zone), to)
	case ByMonth:
		edges = walls(date(year, month, 1), 1, 0, to, zone)
	default:
		edges = walls(date(year, month, day), 0, 1, to, zone)
	}
	for len(edges) > 2 && !edges[1].After(from) {
		edges = edges[1:]
	}
	return edges
}

// date is a date as a clock on the wall shows it, anywhere.
func date(year int, month time.Month, day int) time.Time {
	return time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
}

// walls are the edges at wall and every so many months and days after it, up
// to the first that is not before the time until.
func walls(wall time.Time, months, days int, until time.Time, zone *time.Location) []time.Time {
	edges := []time.Time{firstInstant(wall, zone)}
	for edges[len(edges)-1].Before(until) {
		wall = wall.AddDate(0, months, days)
		// A day that the zone left out altogether is no window.
		if edge := firstInstant(wall, zone); edge.After(edges[len(edges)-1]) {
			edges = append(edges, edge)
		}
	}
	return edges
}

// firstInstant is when the zone's clock first shows the wall's time or, where
// it leaps over it, a later one. time.Date promises neither.
func firstInstant(wall time.Time, zone *time.Location) time.Time {
	const farthest = 26 * time.Hour // no zone is as far from UTC
	t := wall.Add(-farthest).In(zone)
	for {
		_, offset := t.Zone()
		shows := wall.Add(-time.Duration(offset) * time.Second)
		_, change := t.ZoneBounds()
		switch {
		case shows.Before(t):
			return t
		case change.IsZero() || shows.Before(change):
			return shows.In(zone)
		}
		t = change
	}
}

// hours are the edges from first on, up to the first that is not before until.
func hours(first, until time.Time) []time.Time {
	edges := []time.Time{first}
	for edges[len(edges)-1].Before(until) {
		edges = append(edges, nextHour(edges[len(edges)-1]))
	}
	return edges
}

// nextHour is the next full hour of t's zone, or the change of its clock that
// moves the full hours.
func nextHour(t time.Time) time.Time {
	const hour = 3600
	_, offset := t.Zone()
	past := (t.Unix() + int64(offset)) % hour
	if past < 0 {
		past += hour
	}
	full := t.Add(time.Duration(hour-past) * time.Second)
	if _, change := t.ZoneBounds(); !change.IsZero() && change.Before(full) {
		if _, after := change.Zone(); (after-offset)%hour != 0 {
			return change
		}
	}
	return full
}
