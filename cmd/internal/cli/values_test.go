package cli

import (
	"math"
	"testing"
	"time"
)

func TestDaysAreReadAsTheyAreWritten(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"35d": 35 * 24 * time.Hour, "1.5d": 36 * time.Hour, "12h": 12 * time.Hour, "0d": 0, "-1d": -24 * time.Hour, "100000d": 100_000 * 24 * time.Hour,
	} {
		var d Days
		if err := d.UnmarshalText([]byte(text)); err != nil || time.Duration(d) != want {
			t.Errorf("%s: %s, %v; want %s", text, time.Duration(d), err, want)
		}
	}
	if text := Days(math.MaxInt64).String(); text != time.Duration(math.MaxInt64).String() {
		t.Error(text)
	}
}
