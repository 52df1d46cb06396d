package query

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func instant(text string) time.Time {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		panic(err)
	}
	return t
}

func TestWindowsFollowTheTimeZone(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, zone string
		window     Window
		from, to   string
		want       []string // edges, as the zone's clock shows them
	}{
		{"whole days stay", "UTC", ByDay, "2026-11-01T00:00:00Z", "2026-11-03T00:00:00Z",
			[]string{"2026-11-01 00:00 UTC", "2026-11-02 00:00 UTC", "2026-11-03 00:00 UTC"}},
		{"others are widened", "UTC", ByDay, "2026-11-01T23:59:59Z", "2026-11-02T00:00:00.000001Z",
			[]string{"2026-11-01 00:00 UTC", "2026-11-02 00:00 UTC", "2026-11-03 00:00 UTC"}},
		{"months", "Asia/Tokyo", ByMonth, "2026-10-31T15:00:00Z", "2026-12-31T15:00:00Z",
			[]string{"2026-11-01 00:00 JST", "2026-12-01 00:00 JST", "2027-01-01 00:00 JST"}},
		{"hours of a zone off by half of one", "Asia/Kolkata", ByHour, "2026-11-01T00:00:00Z", "2026-11-01T01:00:00Z",
			[]string{"2026-11-01 05:00 IST", "2026-11-01 06:00 IST", "2026-11-01 07:00 IST"}},
		{"the hour that is there twice", "Europe/Berlin", ByHour, "2026-10-25T00:00:00Z", "2026-10-25T02:00:00Z",
			[]string{"2026-10-25 02:00 CEST", "2026-10-25 02:00 CET", "2026-10-25 03:00 CET"}},
		{"the hour that is not there", "Europe/Berlin", ByHour, "2026-03-29T00:00:00Z", "2026-03-29T02:00:00Z",
			[]string{"2026-03-29 01:00 CET", "2026-03-29 03:00 CEST", "2026-03-29 04:00 CEST"}},
		{"a change by half an hour", "Australia/Lord_Howe", ByHour, "2026-10-03T14:40:00Z", "2026-10-03T16:10:00Z",
			[]string{"2026-10-04 01:00 +1030", "2026-10-04 02:30 +11", "2026-10-04 03:00 +11", "2026-10-04 04:00 +11"}},
		{"a day without a midnight", "Asia/Beirut", ByDay, "2026-03-28T12:00:00Z", "2026-03-29T12:00:00Z",
			[]string{"2026-03-28 00:00 EET", "2026-03-29 01:00 EEST", "2026-03-30 00:00 EEST"}},
		{"a day with two midnights", "America/Havana", ByDay, "2026-11-01T12:00:00Z", "2026-11-01T13:00:00Z",
			[]string{"2026-11-01 00:00 CDT", "2026-11-02 00:00 CST"}},
		{"a day that was left out", "Pacific/Apia", ByDay, "2011-12-29T12:00:00Z", "2011-12-30T12:00:00Z",
			[]string{"2011-12-29 00:00 -10", "2011-12-31 00:00 +14", "2012-01-01 00:00 +14"}},
		{"a midnight that was taken back", "America/St_Johns", ByDay, "2006-10-29T03:00:00Z", "2006-10-29T04:00:00Z",
			[]string{"2006-10-29 00:00 NDT", "2006-10-30 00:00 NST"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, edge := range test.window.edges(instant(test.from), instant(test.to), zone(t, test.zone)) {
				got = append(got, edge.Format("2006-01-02 15:04 MST"))
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDaysOfAChangeHave23Or25Hours(t *testing.T) {
	t.Parallel()
	var odd []string
	edges := ByDay.edges(instant("2025-12-31T23:00:00Z"), instant("2026-12-31T23:00:00Z"), zone(t, "Europe/Berlin"))
	for i, end := range edges[1:] {
		if d := end.Sub(edges[i]); d != 24*time.Hour {
			odd = append(odd, fmt.Sprint(edges[i].Format(time.DateOnly), " ", d))
		}
	}
	if len(edges) != 366 || strings.Join(odd, ", ") != "2026-03-29 23h0m0s, 2026-10-25 25h0m0s" {
		t.Errorf("%d edges, odd days %v", len(edges), odd)
	}
}

// zones have what is hard: half hours, changes at midnight or by half an hour,
// a day left out.
var zones = []string{
	"UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Chatham",
	"America/Havana", "Asia/Beirut", "Africa/Cairo", "America/Santiago", "Pacific/Apia", "America/St_Johns", "Pacific/Kiritimati", "Etc/GMT+12",
}

func TestWindowsCoverTheRangeWithoutGap(t *testing.T) {
	t.Parallel()
	first, last := instant("2005-01-01T00:00:00Z").Unix(), instant("2030-01-01T00:00:00Z").Unix()
	longest := map[Window]time.Duration{ByHour: time.Hour, ByDay: 25 * time.Hour, ByMonth: 32 * 24 * time.Hour}
	rapid.Check(t, func(t *rapid.T) {
		loc, _ := time.LoadLocation(rapid.SampledFrom(zones).Draw(t, "zone"))
		window := rapid.SampledFrom([]Window{ByHour, ByDay, ByMonth}).Draw(t, "window")
		from := time.Unix(rapid.Int64Range(first, last).Draw(t, "from"), 0)
		to := from.Add(time.Duration(rapid.Int64Range(1, int64(3*longest[window])).Draw(t, "span")))
		edges := window.edges(from, to, loc)
		if n := len(edges); edges[0].After(from) || !edges[1].After(from) || edges[n-1].Before(to) || !edges[n-2].Before(to) {
			t.Fatalf("[%s, %s) by %s of %s is widened to %v", from.UTC(), to.UTC(), window, loc, edges)
		}
		for i, end := range edges[1:] {
			if d := end.Sub(edges[i]); d <= 0 || d > longest[window] {
				t.Fatalf("%s from %s to %s", window, edges[i], end)
			}
			// The same windows, whichever range they are asked for.
			if got := window.edges(edges[i], end, loc); len(got) != 2 || !got[0].Equal(edges[i]) || !got[1].Equal(end) {
				t.Fatalf("[%s, %s) alone is widened to %v", edges[i], end, got)
			}
		}
	})
}
