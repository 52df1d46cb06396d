package aggregator

import (
	"math"
	"time"

	"github.com/google/uuid"

	"odometer"
)

// retrial is what a dead letter that is judged anew finds its period by: not
// its own position, where it was no event, but the moment of its retry.
type retrial struct {
	now         bool       // it is being retried: what is closed is closed
	closedUntil *time.Time // it was retried before: the end of its tenant's last period that was closed then
}

// endOfTime lies after every close.
var endOfTime = odometer.Position{Epoch: math.MaxInt32, Seq: math.MaxInt64}

// place finds the period that takes an item, nil for none.
func (i *item) place(periods []odometer.Period) *odometer.Period {
	e := &i.event
	switch {
	case i.retried == nil:
		return odometer.PeriodFor(periods, e.OccurredAt, e.Position)
	case i.retried.now:
		return odometer.PeriodFor(periods, e.OccurredAt, endOfTime)
	default:
		return PlaceRetried(periods, e.OccurredAt, i.retried.closedUntil)
	}
}

// PlaceRetried finds the period of an event that comes from a retried dead
// letter, given the letter's retry_closed_until: what had been closed by then
// could not take it, everything later could. The retry's position alone does
// not tell: while nothing arrives, a close before and one after it have the same.
func PlaceRetried(periods []odometer.Period, occurredAt time.Time, closedUntil *time.Time) *odometer.Period {
	then := make([]odometer.Period, len(periods))
	for n, p := range periods {
		p.ClosedAt = nil
		if closedUntil != nil && !p.End.After(*closedUntil) {
			p.ClosedAt = &odometer.Position{}
		}
		then[n] = p
	}
	return odometer.PeriodFor(then, occurredAt, endOfTime)
}

// closedUntil is the end of a tenant's last closed period, nil for none.
func (t *ruleCache) closedUntil(id uuid.UUID) *time.Time {
	tenant := t.tenants[id]
	if tenant == nil {
		return nil
	}
	var until *time.Time
	for n := range tenant.Periods {
		if tenant.Periods[n].ClosedAt != nil {
			until = &tenant.Periods[n].End
		}
	}
	return until
}
