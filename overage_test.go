package odometer_test

import (
	"math"
	"testing"

	"github.com/shopspring/decimal"

	"odometer"
)

func TestPercentageAndOverage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		count            int64
		limit            *int64
		percent, overage int64
	}{
		{425, ptr[int64](500), 85, 0},
		{52, ptr[int64](50), 104, 2},
		{499, ptr[int64](500), 99, 0},
		{500, ptr[int64](500), 100, 0},
		{0, ptr[int64](0), 0, 0},
		{1, ptr[int64](0), 100, 1},
		{7, nil, 0, 0},
		{math.MaxInt64 - 1, ptr[int64](math.MaxInt64), 99, 0},
	} {
		if got := odometer.Percentage(c.count, c.limit); got != c.percent {
			t.Errorf("percentage of %d: %d, want %d", c.count, got, c.percent)
		}
		if got := odometer.Overage(c.count, c.limit); got != c.overage {
			t.Errorf("overage of %d: %d, want %d", c.count, got, c.overage)
		}
	}
}

func TestCostIsRoundedHalfUpOnce(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		units int64
		price string
		cents int64
	}{
		{2, "0.10", 20}, {0, "0.10", 0}, {1, "0.005", 1}, {1, "0.0049", 0}, {3, "0.0015", 0}, {1000, "0.0015", 150}, {333, "0.0015", 50},
	} {
		if got := odometer.CostCents(c.units, decimal.RequireFromString(c.price)); got != c.cents {
			t.Errorf("%d units at %s: %d cents, want %d", c.units, c.price, got, c.cents)
		}
	}
}

func TestAlertsSayWhatTheContractSays(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		count   int64
		limit   *int64
		level   odometer.Level
		message string
	}{
		{79, ptr[int64](100), "", ""},
		{80, ptr[int64](100), odometer.LevelWarning, "You've used 80% of your invoice quota this month"},
		{100, ptr[int64](100), odometer.LevelError, "You've reached your invoice quota"},
		{102, ptr[int64](100), odometer.LevelError, "You've exceeded your invoice quota. Extra charges: $0.20"},
		{1000, nil, "", ""},
	} {
		cents := odometer.CostCents(odometer.Overage(c.count, c.limit), decimal.RequireFromString("0.10"))
		got := odometer.AlertFor("invoice", "invoice", c.count, c.limit, cents, "usd")
		if got == nil {
			got = &odometer.Alert{}
		}
		if got.Level != c.level || got.Message != c.message {
			t.Errorf("%d: %q %q, want %q %q", c.count, got.Level, got.Message, c.level, c.message)
		}
	}
}
