package query

import (
	"context"
	"net/http"
	"time"

	"odometer"
	"odometer/api"
)

const (
	forecastRoute = "/api/v1/usage/forecast"
	periodsRoute  = "/api/v1/periods"
	alertsRoute   = "/api/v1/alerts"
)

func (s *server) registerPeriods(a *api.API) {
	api.Register(a, api.Route{
		ID: "usage-forecast", Method: http.MethodGet, Path: forecastRoute, Tag: "usage", Scope: api.ReadScope, PerMinute: readsPerMinute,
		Summary: "What the current period comes to",
		Description: "If usage goes on at its present pace: the count so far, divided by the time from the period's start to `as_of`. " +
			"Projected counts are rounded down, costs once per agent, half up. " +
			"Until a thirtieth of the period has passed (of a month, about a day) it is too early to tell: then all that is projected is null.",
		Problems: readProblems,
		Example:  exampleForecast(),
	}, s.forecast)
	api.Register(a, api.Route{
		ID: "periods", Method: http.MethodGet, Path: periodsRoute, Tag: "usage", Scope: api.ReadScope, PerMinute: readsPerMinute,
		Summary: "The billing periods",
		Description: "The newest first. A closed period shows the counts, limits, prices and amounts that it was closed with, for ever; " +
			"one that has ended the limits and prices in force at its end; the running one those in force now.",
		Problems: readProblems,
		Example:  examplePeriods(),
	}, s.periods)
	api.Register(a, api.Route{
		ID: "alerts", Method: http.MethodGet, Path: alertsRoute, Tag: "usage", Scope: api.ReadScope, PerMinute: readsPerMinute,
		Summary:     "Limits that are nearly used or exceeded",
		Description: "What holds now, computed from the counts, and what was raised and told to people.",
		Problems:    readProblems,
		Example:     exampleAlerts(),
	}, s.alerts)
}

type nothingAsked struct{}

type forecastTold struct {
	AsOf string `header:"Odometer-As-Of" doc:"as_of."`
	Body *Forecast
}

// forecast answers GET /api/v1/usage/forecast.
func (s *server) forecast(ctx context.Context, who api.Caller, _ *nothingAsked) (*forecastTold, error) {
	ctx, cancel := context.WithTimeout(ctx, databaseTimeout)
	defer cancel()
	f, err := ReadForecast(ctx, s.pool, reader(who))
	if err != nil {
		return nil, refused(err)
	}
	return &forecastTold{f.AsOf.String(), f}, nil
}

type periodsAsked struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"100" default:"12" doc:"Periods of a page."`
	Cursor string `query:"cursor" maxLength:"200" doc:"The next_cursor of an earlier answer, to go on there."`
}

type periodsTold struct {
	AsOf string `header:"Odometer-As-Of" doc:"as_of."`
	Body *Periods
}

// periods answers GET /api/v1/periods.
func (s *server) periods(ctx context.Context, who api.Caller, asked *periodsAsked) (*periodsTold, error) {
	p, err := ReadPeriods(ctx, s.pool, PeriodsRequest{Reader: reader(who), Limit: asked.Limit, Cursor: asked.Cursor})
	if err != nil {
		return nil, refused(err)
	}
	return &periodsTold{p.AsOf.String(), p}, nil
}

type alertsTold struct {
	AsOf string `header:"Odometer-As-Of" doc:"as_of."`
	Body *Alerts
}

// alerts answers GET /api/v1/alerts.
func (s *server) alerts(ctx context.Context, who api.Caller, _ *nothingAsked) (*alertsTold, error) {
	a, err := ReadAlerts(ctx, s.pool, reader(who))
	if err != nil {
		return nil, refused(err)
	}
	return &alertsTold{a.AsOf.String(), a}, nil
}

func exampleForecast() *Forecast {
	limit := func(n int64) *int64 { return &n }
	f := &Forecast{
		TenantID: exampleTenant, PeriodStart: exampleStart, PeriodEnd: exampleEnd, AsOf: exampleAsOf, Currency: "usd",
		Usage: Ordered[AgentForecast]{
			{"inbox", forecast(pace{425, exampleStart, exampleAsOf.Time, exampleEnd}, limit(500))},
			{"invoice", forecast(pace{52, exampleStart, exampleAsOf.Time, exampleEnd}, limit(50))},
			{"meeting", forecast(pace{15, exampleStart, exampleAsOf.Time, exampleEnd}, limit(30))},
		},
	}
	total := int64(0)
	for i, price := range []int64{2, 10, 15} {
		use := &f.Usage[i].Value
		cents := *use.ProjectedOverage * price
		use.ProjectedOverageCostCents = &cents
		total += cents
	}
	f.ProjectedOverageCostCents = &total
	return f
}

func examplePeriods() *Periods {
	limit := func(n int64) *int64 { return &n }
	plan := &PeriodPlan{"price_bundle_monthly", "FounderPilot Bundle"}
	closed, settled := exampleStart.Add(15*time.Minute), exampleStart.Add(26*time.Minute)
	return &Periods{
		TenantID: exampleTenant, AsOf: exampleAsOf, Currency: "usd",
		Periods: []Period{
			{
				PeriodStart: exampleStart, PeriodEnd: exampleEnd, Status: "open", Current: true, Plan: plan,
				Usage: Ordered[PeriodUsage]{{"inbox", PeriodUsage{Count: 425, Limit: limit(500), Percentage: 85, UnitPrice: "0.02"}}},
			},
			{
				PeriodStart: exampleStart.AddDate(0, -1, 0), PeriodEnd: exampleStart, Status: "closed", Plan: plan, ClosedAt: &closed, SettledAt: &settled,
				Usage:                 Ordered[PeriodUsage]{{"inbox", PeriodUsage{Count: 510, Limit: limit(500), Percentage: 102, Overage: 10, UnitPrice: "0.02", OverageCostCents: 20}}},
				TotalOverageCostCents: 20,
			},
		},
	}
}

func exampleAlerts() *Alerts {
	raised := exampleStart.AddDate(0, 0, 20).Add(9 * time.Hour)
	return &Alerts{
		TenantID: exampleTenant, PeriodStart: exampleStart, PeriodEnd: exampleEnd, AsOf: exampleAsOf,
		Alerts: []AlertNow{{
			Agent: "inbox", Level: odometer.LevelWarning, Message: "You've used 85% of your email quota this month",
			Percentage: 85, Count: 425, Limit: 500, RaisedAt: &raised,
		}},
		Raised: []AlertRaised{{
			Agent: "inbox", Level: odometer.LevelWarning, Threshold: odometer.WarningPercent, Limit: 500, Count: 401,
			PeriodStart: exampleStart, RaisedAt: raised,
		}},
	}
}
