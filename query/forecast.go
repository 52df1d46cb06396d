package query

import (
	"context"
	"math"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
)

// Forecast projects the current period, if usage continues at its pace. It
// encodes to the JSON of GET /api/v1/usage/forecast.
type Forecast struct {
	TenantID                  uuid.UUID              `json:"tenant_id"`
	PeriodStart               time.Time              `json:"period_start"`
	PeriodEnd                 time.Time              `json:"period_end" doc:"Exclusive."`
	AsOf                      Instant                `json:"as_of"`
	Currency                  string                 `json:"currency" doc:"ISO 4217, lower case."`
	Usage                     Ordered[AgentForecast] `json:"usage"`
	ProjectedOverageCostCents *int64                 `json:"projected_overage_cost_cents" doc:"The sum of what is shown. null: it is too early to tell."`
}

// AgentForecast is where one agent's count is heading.
type AgentForecast struct {
	Count                     int64      `json:"count"`
	Limit                     *int64     `json:"limit" doc:"null: nothing limits it."`
	PerDay                    *float64   `json:"per_day" doc:"Units per day since the period's start, to a tenth. null: it is too early to tell."`
	ProjectedCount            *int64     `json:"projected_count" doc:"At the period's end, whole units. null: it is too early to tell."`
	ProjectedOverage          *int64     `json:"projected_overage" doc:"Units. null: it is too early to tell."`
	ProjectedOverageCostCents *int64     `json:"projected_overage_cost_cents" doc:"null: it is too early to tell."`
	DaysUntilLimit            *float64   `json:"days_until_limit" doc:"From as_of, to a tenth, rounded up. 0: the limit is reached. null: it is not reached before the period's end, or it is too early to tell."`
	LimitReachedAt            *time.Time `json:"limit_reached_at" doc:"null: it was reached before, is not reached before the period's end, or it is too early to tell."`
}

// ReadForecast projects the usage of the current period. It takes one round
// trip. The error is a *Refusal where there is no answer, anything else is the
// database's.
func ReadForecast(ctx context.Context, pool *pgxpool.Pool, who Reader) (*Forecast, error) {
	rows, err := load(ctx, pool, who)
	if err != nil {
		return nil, err
	}
	now := answer(who.Tenant, rows)
	f := &Forecast{
		TenantID: now.TenantID, PeriodStart: now.PeriodStart, PeriodEnd: now.PeriodEnd,
		AsOf: now.AsOf, Currency: now.Currency,
	}
	free := rows[0].free()
	if (&pace{start: f.PeriodStart, at: f.AsOf.UTC(), end: f.PeriodEnd}).isLongEnough() {
		f.ProjectedOverageCostCents = new(int64)
	}
	for i := range rows {
		r := &rows[i]
		if r.Agent == nil {
			continue
		}
		ahead := forecast(pace{r.Count, f.PeriodStart, f.AsOf.UTC(), f.PeriodEnd}, r.limit(free))
		if f.ProjectedOverageCostCents != nil {
			cents := odometer.CostCents(*ahead.ProjectedOverage, r.UnitPrice)
			ahead.ProjectedOverageCostCents = &cents
			*f.ProjectedOverageCostCents = odometer.Sum(*f.ProjectedOverageCostCents, cents)
		}
		f.Usage = append(f.Usage, Member[AgentForecast]{*r.Agent, ahead})
	}
	return f, nil
}

// pace is a count that was reached between the start of a period and a time in
// it, and is assumed to grow evenly until its end. Its arithmetic is exact,
// because costs follow from it.
type pace struct {
	count          int64
	start, at, end time.Time
}

const wholeDay = 24 * time.Hour

// earlyShare is the part of a period, one in so many, that must have passed
// before anything is projected. It also bounds by how much a burst is
// multiplied: minutes into a month that would be thousands.
const earlyShare = 30

// isLongEnough reports whether enough of the period has passed to project from.
func (p *pace) isLongEnough() bool {
	elapsed := p.elapsed()
	return elapsed > 0 && elapsed >= p.end.Sub(p.start)/earlyShare
}

// forecast is what the pace means for a limit, without the cost. A limit that is
// reached is known however early it is.
func forecast(p pace, limit *int64) AgentForecast {
	f := AgentForecast{Count: p.count, Limit: limit}
	reached := limit != nil && p.count > 0 && p.count >= *limit
	if reached {
		f.DaysUntilLimit = new(float64)
	}
	if !p.isLongEnough() {
		return f
	}
	perDay, projected := p.perDay(), p.projected()
	overage := odometer.Overage(projected, limit)
	f.PerDay, f.ProjectedCount, f.ProjectedOverage = &perDay, &projected, &overage
	if limit == nil || reached {
		return f
	}
	if left, ok := p.until(*limit); ok {
		// Rounded up, so that 0 is never shown before it is true.
		days := float64((max(left, 1)+wholeDay/10-1)/(wholeDay/10)) / 10
		at := p.at.Add(left).Truncate(time.Millisecond)
		f.DaysUntilLimit, f.LimitReachedAt = &days, &at
	}
	return f
}

// elapsed is how long the count took; 0 before the period's start.
func (p *pace) elapsed() time.Duration {
	at := p.at
	if at.After(p.end) {
		at = p.end
	}
	return max(0, at.Sub(p.start))
}

// perDay is the pace for people.
func (p *pace) perDay() float64 {
	return math.Round(float64(p.count)*float64(wholeDay)/float64(p.elapsed())*10) / 10
}

// projected is the count at the period's end: units that are whole by then. It
// is the count itself where the end is past.
func (p *pace) projected() int64 {
	return odometer.Scale(p.count, int64(p.end.Sub(p.start)), int64(p.elapsed()))
}

// until is how long the count takes from now to reach a limit that lies ahead;
// not ok if that is not before the period's end.
func (p *pace) until(limit int64) (left time.Duration, ok bool) {
	if p.count <= 0 {
		return 0, false
	}
	left = time.Duration(odometer.Scale(limit-p.count, int64(p.elapsed()), p.count))
	return left, left < p.end.Sub(p.at)
}
