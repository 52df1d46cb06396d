package odometer

import "github.com/shopspring/decimal"

// Overage is how many units of count lie beyond what is included, in units. A
// nil limit is no limit.
func Overage(count int64, limit *int64) int64 {
	if limit == nil || count <= *limit {
		return 0
	}
	return count - *limit
}

// Percentage is how much of limit is used, rounded down, so that 100 is never
// said before the limit is reached. Nothing included means 100 from the first
// unit on; no limit means 0.
func Percentage(count int64, limit *int64) int64 {
	switch {
	case limit == nil:
		return 0
	case *limit == 0 && count > 0:
		return 100
	case *limit == 0:
		return 0
	}
	whole, _ := decimal.NewFromInt(count).Mul(decimal.NewFromInt(100)).QuoRem(decimal.NewFromInt(*limit), 0)
	return whole.IntPart()
}

// CostCents is the price of overage units in hundredths of the currency,
// rounded half up, once.
func CostCents(overage int64, unitPrice decimal.Decimal) int64 {
	return decimal.NewFromInt(overage).Mul(unitPrice).Shift(2).Add(half).Floor().IntPart()
}

var half = decimal.New(5, -1)
