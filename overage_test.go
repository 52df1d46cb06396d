package odometer_test

import (
	"math"
	"math/big"
	"testing"

	"github.com/shopspring/decimal"
	"pgregory.net/rapid"

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
		{math.MaxInt64, ptr[int64](math.MaxInt64), 100, 0},
		{math.MaxInt64, ptr[int64](100), math.MaxInt64, math.MaxInt64 - 100},
		{math.MaxInt64, ptr[int64](99), math.MaxInt64, math.MaxInt64 - 99},
		{math.MaxInt64, ptr[int64](1), math.MaxInt64, math.MaxInt64 - 1},
		{math.MaxInt64, ptr[int64](0), 100, math.MaxInt64},
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

// largest is x, or the largest int64 (below 0, its negative) where x is beyond.
func largest(x *big.Int) int64 {
	switch most := big.NewInt(math.MaxInt64); {
	case x.Cmp(most) > 0:
		return math.MaxInt64
	case x.Cmp(most.Neg(most)) < 0:
		return -math.MaxInt64
	}
	return x.Int64()
}

// numbers are small ones, and those near what an int64 holds.
var numbers = rapid.OneOf(rapid.Int64Range(0, 1000), rapid.Int64Range(0, math.MaxInt64), rapid.Int64Range(math.MaxInt64-1000, math.MaxInt64))

func TestFiguresAreExactOrTheLargest(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		count, limit := numbers.Draw(t, "count"), numbers.Draw(t, "limit")
		percent := new(big.Int).Mul(big.NewInt(count), big.NewInt(100))
		switch {
		case limit > 0:
			percent.Quo(percent, big.NewInt(limit))
		case count > 0:
			percent.SetInt64(100)
		}
		if got := odometer.Percentage(count, &limit); got != largest(percent) {
			t.Errorf("%d of %d is %d %%, want %d", count, limit, got, largest(percent))
		}
		sum := new(big.Int).Add(big.NewInt(count), big.NewInt(limit))
		if got := odometer.Sum(count, limit); got != largest(sum) {
			t.Errorf("%d and %d are %d, want %d", count, limit, got, largest(sum))
		}
	})
}

// A catalogue's price has at most 12 digits before and after the point.
func TestCostsAreExactOrTheLargest(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		units := rapid.OneOf(numbers, rapid.Int64()).Draw(t, "units")
		price := new(big.Int).Mul(big.NewInt(rapid.Int64Range(0, 999_999_999_999).Draw(t, "whole")), big.NewInt(1e12))
		price.Add(price, big.NewInt(rapid.Int64Range(0, 999_999_999_999).Draw(t, "parts")))
		// floor(units × price × 100 + 1/2), in halves of 1e-12
		cents := new(big.Int).Mul(big.NewInt(units), price)
		cents.Mul(cents, big.NewInt(200)).Add(cents, big.NewInt(1e12))
		cents.Div(cents, big.NewInt(2e12)) // rounds down: the divisor is positive
		if got := odometer.CostCents(units, decimal.NewFromBigInt(price, -12)); got != largest(cents) {
			t.Errorf("%d units at %se-12 cost %d, want %d", units, price, got, largest(cents))
		}
	})
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
