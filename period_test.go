package odometer_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"odometer"
)

func at(seq int64) odometer.Position { return odometer.Position{Epoch: 1, Seq: seq} }

// closedAt makes a period closed at a sequence.
func closedAt(p odometer.Period, seq int64) odometer.Period {
	position := at(seq)
	p.ClosedAt = &position
	return p
}

func period(start, end string) odometer.Period {
	return odometer.Period{Start: day(start), End: day(end)}
}

func TestPlacementIsAFunctionOfTimeAndPosition(t *testing.T) {
	t.Parallel()
	periods := []odometer.Period{
		closedAt(period("2026-09-01", "2026-10-01"), 100),
		closedAt(period("2026-10-01", "2026-11-01"), 200),
		period("2026-11-01", "2026-12-01"),
	}
	for _, c := range []struct {
		name     string
		occurred string
		seq      int64
		want     string // the period's start, "" for none
	}{
		{"in the running period", "2026-11-05", 300, "2026-11-01"},
		{"at a start", "2026-11-01", 300, "2026-11-01"},
		{"at an end, which is excluded", "2026-12-01", 300, ""},
		{"before the first", "2026-08-31", 50, ""},
		{"before its period's close", "2026-09-15", 100, "2026-09-01"},
		{"late, in the first later open one", "2026-09-15", 101, "2026-10-01"},
		{"late twice", "2026-09-15", 201, "2026-11-01"},
		{"late by one", "2026-10-31", 201, "2026-11-01"},
	} {
		got := ""
		if p := odometer.PeriodFor(periods, day(c.occurred), at(c.seq)); p != nil {
			got = p.Start.Format(time.DateOnly)
		}
		if got != c.want {
			t.Errorf("%s: in %q, want %q", c.name, got, c.want)
		}
	}
}

func TestALateEventAfterTheLastCloseHasNoPeriod(t *testing.T) {
	t.Parallel()
	periods := []odometer.Period{closedAt(period("2026-09-01", "2026-10-01"), 100)}
	if p := odometer.PeriodFor(periods, day("2026-09-02"), at(101)); p != nil {
		t.Errorf("period %v, want none", p)
	}
}

func TestAGapTakesNothing(t *testing.T) {
	t.Parallel()
	periods := []odometer.Period{period("2026-09-01", "2026-10-01"), period("2026-11-01", "2026-12-01")}
	if p := odometer.PeriodFor(periods, day("2026-10-15"), at(1)); p != nil {
		t.Errorf("period %v, want none", p)
	}
}

func TestAnEpochLaterIsLater(t *testing.T) {
	t.Parallel()
	if p := (odometer.Position{Epoch: 2, Seq: 1}); !p.After(at(99)) || at(99).After(p) {
		t.Error("a higher epoch must lie after any sequence of a lower one")
	}
}

func ptr[T any](v T) *T { return &v }

func TestSubscriptionsLayAndRollTheirPeriods(t *testing.T) {
	t.Parallel()
	type span struct {
		Start, End string
		Trial      bool
	}
	for _, c := range []struct {
		name       string
		sub        odometer.Subscription
		start, end string
		until      string
		want       []span
		status     odometer.Status
	}{
		{
			"rolls over several ended periods", odometer.Subscription{PlanID: "p", Status: odometer.Active, Interval: odometer.Monthly},
			"2026-08-31", "2026-09-30", "2026-11-23",
			[]span{{"2026-08-31", "2026-09-30", false}, {"2026-09-30", "2026-10-31", false}, {"2026-10-31", "2026-11-30", false}},
			odometer.Active,
		},
		{
			"past due rolls on", odometer.Subscription{PlanID: "p", Status: odometer.PastDue, Interval: odometer.Weekly},
			"2026-11-01", "2026-11-08", "2026-11-09",
			[]span{{"2026-11-01", "2026-11-08", false}, {"2026-11-08", "2026-11-15", false}},
			odometer.PastDue,
		},
		{
			"canceled ends", odometer.Subscription{PlanID: "p", Status: odometer.Canceled, Interval: odometer.Monthly},
			"2026-09-01", "2026-10-01", "2026-11-23",
			[]span{{"2026-09-01", "2026-10-01", false}},
			odometer.Canceled,
		},
		{
			"no interval, no next", odometer.Subscription{PlanID: "p", Status: odometer.Active, Interval: odometer.Once},
			"2026-09-01", "2026-10-01", "2026-11-23",
			[]span{{"2026-09-01", "2026-10-01", false}},
			odometer.Active,
		},
		{
			"a trial with a plan is followed by the paid rest of its period",
			odometer.Subscription{PlanID: "p", Status: odometer.Trial, Interval: odometer.Monthly, TrialEndsAt: ptr(day("2026-11-10"))},
			"2026-11-01", "2026-12-01", "2026-12-05",
			[]span{{"2026-11-01", "2026-11-10", true}, {"2026-11-10", "2026-12-01", false}, {"2026-12-01", "2027-01-01", false}},
			odometer.Active,
		},
		{
			"a trial without a plan expires",
			odometer.Subscription{Status: odometer.Trial, Interval: odometer.Monthly, TrialEndsAt: ptr(day("2026-11-10"))},
			"2026-11-01", "2026-12-01", "2026-12-05",
			[]span{{"2026-11-01", "2026-11-10", true}},
			odometer.Expired,
		},
		{
			"a trial longer than a period rolls and is cut at its end",
			odometer.Subscription{PlanID: "p", Status: odometer.Trial, Interval: odometer.Weekly, TrialEndsAt: ptr(day("2026-11-12"))},
			"2026-11-01", "2026-11-08", "2026-11-23",
			[]span{{"2026-11-01", "2026-11-08", true}, {"2026-11-08", "2026-11-12", true}, {"2026-11-12", "2026-11-15", false},
				{"2026-11-15", "2026-11-22", false}, {"2026-11-22", "2026-11-29", false}},
			odometer.Active,
		},
		{
			"a trial without an end stays one",
			odometer.Subscription{Status: odometer.Trial, Interval: odometer.Monthly},
			"2026-10-01", "2026-11-01", "2026-11-23",
			[]span{{"2026-10-01", "2026-11-01", true}, {"2026-11-01", "2026-12-01", true}},
			odometer.Trial,
		},
	} {
		c.sub.Anchor = c.sub.Interval.Anchor(day(c.start), day(c.end))
		periods := c.sub.FirstPeriods(day(c.start), day(c.end))
		periods = append(periods, c.sub.Roll(periods[len(periods)-1].End, day(c.until))...)
		var got []span
		for _, p := range periods {
			got = append(got, span{p.Start.Format(time.DateOnly), p.End.Format(time.DateOnly), p.Trial})
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
		if got := c.sub.StatusAt(day(c.until)); got != c.status {
			t.Errorf("%s: status %s, want %s", c.name, got, c.status)
		}
	}
}
