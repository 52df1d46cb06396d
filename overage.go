package odometer

import (
	"math"
	"math/bits"

	"github.com/shopspring/decimal"
)

// Overage is how many units of count lie beyond what is included, in units. A
// nil limit is no limit.
func Overage(count int64, limit *int64) int64 {
	if limit == nil || count <= *limit {
		return 0
	}
	return count - *limit
}

// Percentage is how much of limit is used, rounded down, so that 100 is never
// shown before the limit is reached. Nothing included means 100 from the first
// unit on; no limit means 0.
func Percentage(count int64, limit *int64) int64 {
	switch {
	case limit == nil || count <= 0:
		return 0
	case *limit <= 0:
		return 100
	}
	return Scale(count, 100, *limit)
}

// CostCents is the price of overage units in hundredths of the currency,
// rounded half up, once; a credit's is negative. What no int64 holds is the
// largest amount that one does: a catalogue's price can be that high.
func CostCents(overage int64, unitPrice decimal.Decimal) int64 {
	cents := decimal.NewFromInt(overage).Mul(unitPrice).Shift(2).Add(half).Floor()
	switch {
	case cents.GreaterThan(most):
		return math.MaxInt64
	case cents.LessThan(most.Neg()): // whose sign can be turned
		return -math.MaxInt64
	}
	return cents.IntPart()
}

var (
	half = decimal.New(5, -1)
	most = decimal.NewFromInt(math.MaxInt64)
)

// PriceText writes 29, 0.10 and 0.0125: never one decimal alone.
func PriceText(price decimal.Decimal) string {
	if !price.IsInteger() && price.Equal(price.Truncate(1)) {
		return price.StringFixed(2)
	}
	return price.String()
}

// Sum is two counts or amounts, neither of them negative, taken together: the
// largest number where it would be larger.
func Sum(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// Scale is n × times ÷ by, rounded down, for numbers that are not negative and
// a by that is not 0: the largest number where it would be larger.
func Scale(n, times, by int64) int64 {
	high, low := bits.Mul64(uint64(n), uint64(times))
	if high >= uint64(by) {
		return math.MaxInt64
	}
	quotient, _ := bits.Div64(high, low, uint64(by))
	return int64(min(quotient, math.MaxInt64))
}
