package query

import (
	"context"
	"encoding/json"
	"math"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"odometer"
)

func TestForecastContinuesAtTheCurrentPace(t *testing.T) {
	t.Parallel()
	start, end := instant("2026-11-01T00:00:00Z"), instant("2026-12-01T00:00:00Z")
	num := func(n int64) *int64 { return &n }
	days := func(n float64) *float64 { return &n }
	at := func(text string) *time.Time { t := instant(text); return &t }
	told := func(count int64, limit *int64, perDay float64, projected, overage int64, days *float64, at *time.Time) AgentForecast {
		return AgentForecast{count, limit, &perDay, &projected, &overage, nil, days, at}
	}
	early := func(count int64, limit *int64, days *float64) AgentForecast {
		return AgentForecast{Count: count, Limit: limit, DaysUntilLimit: days}
	}
	tests := []struct {
		name  string
		count int64
		asOf  string
		limit *int64
		want  AgentForecast
	}{
		{"half the month, half the limit", 250, "2026-11-16T00:00:00Z", num(500),
			told(250, num(500), 16.7, 500, 0, nil, nil)}, // reached as the period ends
		{"a unit more", 251, "2026-11-16T00:00:00Z", num(500),
			told(251, num(500), 16.7, 502, 2, days(14.9), at("2026-11-30T21:07:53.306Z"))},
		{"rounded down", 1, "2026-11-20T00:00:00Z", num(5), told(1, num(5), 0.1, 1, 0, nil, nil)},
		{"reached", 500, "2026-11-16T00:00:00Z", num(500), told(500, num(500), 33.3, 1000, 500, days(0), nil)},
		{"exceeded", 600, "2026-11-16T00:00:00Z", num(500), told(600, num(500), 40, 1200, 700, days(0), nil)},
		{"a moment before it is reached", 499, "2026-11-10T00:00:00Z", num(500),
			told(499, num(500), 55.4, 1663, 1163, days(0.1), at("2026-11-10T00:25:58.316Z"))},
		{"nothing limits it", 250, "2026-11-16T00:00:00Z", nil, told(250, nil, 16.7, 500, 0, nil, nil)},
		{"nothing used", 0, "2026-11-16T00:00:00Z", num(500), told(0, num(500), 0, 0, 0, nil, nil)},
		{"not included, not used", 0, "2026-11-16T00:00:00Z", num(0), told(0, num(0), 0, 0, 0, nil, nil)},
		{"not included, used", 1, "2026-11-16T00:00:00Z", num(0), told(1, num(0), 0.1, 2, 2, days(0), nil)},
		{"the period is over", 300, "2026-12-02T00:00:00Z", num(500), told(300, num(500), 10, 300, 0, nil, nil)},
		{"more than can be counted", math.MaxInt64, "2026-11-16T00:00:00Z", nil,
			told(math.MaxInt64, nil, math.Round(math.MaxInt64/15.*10)/10, math.MaxInt64, 0, nil, nil)},
		{"known until before the period", 3, "2026-10-31T23:00:00Z", num(500), early(3, num(500), nil)},
		{"known until its start", 3, "2026-11-01T00:00:00Z", num(500), early(3, num(500), nil)},
		{"a burst in the first minutes", 450, "2026-11-01T00:04:00Z", num(500), early(450, num(500), nil)},
		{"a burst beyond the limit", 600, "2026-11-01T00:04:00Z", num(500), early(600, num(500), days(0))},
		{"not a thirtieth of the period", 10, "2026-11-01T23:59:59.999Z", num(500), early(10, num(500), nil)},
		{"a thirtieth of the period", 10, "2026-11-02T00:00:00Z", num(500), told(10, num(500), 10, 300, 0, nil, nil)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(test.want, forecast(pace{test.count, start, instant(test.asOf), end}, test.limit)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestForecastIsExact(t *testing.T) {
	t.Parallel()
	start := instant("2026-11-01T00:00:00Z")
	rapid.Check(t, func(t *rapid.T) {
		p := pace{
			count: rapid.OneOf(rapid.Int64Range(0, 1000), rapid.Int64Range(0, math.MaxInt64)).Draw(t, "count"),
			start: start,
			end:   start.Add(time.Duration(rapid.Int64Range(1, int64(366*wholeDay)).Draw(t, "length"))),
		}
		p.at = start.Add(time.Duration(rapid.Int64Range(-int64(wholeDay), int64(p.end.Sub(start)+wholeDay)).Draw(t, "at")))
		limit := rapid.OneOf(rapid.Int64Range(0, 2000), rapid.Int64Range(0, math.MaxInt64)).Draw(t, "limit")
		f := forecast(p, &limit)

		if !p.isLongEnough() {
			if f.PerDay != nil || f.ProjectedCount != nil || f.ProjectedOverage != nil || f.LimitReachedAt != nil {
				t.Fatalf("%v into %v it says %+v", p.elapsed(), p.end.Sub(start), f)
			}
			return
		}
		elapsed := big.NewInt(int64(min(p.at.Sub(start), p.end.Sub(start))))
		want := new(big.Int).SetInt64(p.count)
		want.Mul(want, big.NewInt(int64(p.end.Sub(start)))).Div(want, elapsed)
		if largest := big.NewInt(math.MaxInt64); want.Cmp(largest) > 0 {
			want = largest
		}
		if want.Cmp(big.NewInt(*f.ProjectedCount)) != 0 || *f.ProjectedCount < p.count {
			t.Fatalf("projected %d, want %d", *f.ProjectedCount, want)
		}
		if *f.ProjectedOverage != odometer.Overage(*f.ProjectedCount, &limit) {
			t.Fatalf("overage %d of %d", *f.ProjectedOverage, *f.ProjectedCount)
		}
		if *f.ProjectedOverage > 0 && f.DaysUntilLimit == nil {
			t.Fatalf("overage of %d beyond a limit that is never reached", *f.ProjectedOverage)
		}
		if f.DaysUntilLimit != nil && *f.ProjectedCount < limit {
			t.Fatalf("the limit %d is reached in %v days by %d", limit, *f.DaysUntilLimit, *f.ProjectedCount)
		}
		if f.LimitReachedAt != nil {
			t := f.LimitReachedAt
			if t.Before(p.at.Truncate(time.Millisecond)) || !t.Before(p.end) || *f.DaysUntilLimit == 0 {
				panic("the limit is reached outside of what is left of the period")
			}
		}
	})
}

func TestForecastCostsWhatItsOverageCosts(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	b.exec(`update stream_positions set complete_until = '2026-11-16T00:00:00.0009Z'`)
	tenant := exampleCustomer(b)
	f, err := ReadForecast(context.Background(), b.pool, reading(tenant))
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"tenant_id":"` + tenant.String() + `","period_start":"2026-11-01T00:00:00Z","period_end":"2026-12-01T00:00:00Z","as_of":"2026-11-16T00:00:00.000Z","currency":"usd","usage":{` +
		`"inbox":{"count":425,"limit":500,"per_day":28.3,"projected_count":849,"projected_overage":349,"projected_overage_cost_cents":698,"days_until_limit":2.7,"limit_reached_at":"2026-11-18T15:31:45.883Z"},` +
		`"invoice":{"count":52,"limit":50,"per_day":3.5,"projected_count":103,"projected_overage":53,"projected_overage_cost_cents":530,"days_until_limit":0,"limit_reached_at":null},` +
		`"meeting":{"count":15,"limit":30,"per_day":1,"projected_count":29,"projected_overage":0,"projected_overage_cost_cents":0,"days_until_limit":null,"limit_reached_at":null}},` +
		`"projected_overage_cost_cents":1228}`
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Error(diff)
	}
}

// What is multiplied by thousands is no forecast.
func TestNoMoneyIsForecastMinutesIntoAPeriod(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	b.exec(`update stream_positions set complete_until = '2026-11-01T00:04:00Z'`)
	f, err := ReadForecast(context.Background(), b.pool, reading(exampleCustomer(b)))
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"inbox":{"count":425,"limit":500,"per_day":null,"projected_count":null,"projected_overage":null,"projected_overage_cost_cents":null,"days_until_limit":null,"limit_reached_at":null}`,
		`"invoice":{"count":52,"limit":50,"per_day":null,"projected_count":null,"projected_overage":null,"projected_overage_cost_cents":null,"days_until_limit":0,"limit_reached_at":null}`,
		`},"projected_overage_cost_cents":null}`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
}

func TestTrialIsForecastFree(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := b.subscribe(odometer.Trial, "price_bundle_monthly")
	b.period(tenant)
	b.count(tenant, "inbox", 9000)
	for _, who := range []Reader{{Tenant: tenant}, {Tenant: planless(b), Operator: true}} {
		f, err := ReadForecast(context.Background(), b.pool, who)
		if err != nil {
			t.Fatal(err)
		}
		if use := f.Usage[0].Value; use.Limit != nil || *use.ProjectedOverage != 0 || *use.ProjectedCount <= 9000 || *f.ProjectedOverageCostCents != 0 {
			t.Errorf("%+v", use)
		}
	}
}

// planless is a tenant whose paid subscription has no plan, with usage.
func planless(b *testEnv) uuid.UUID {
	tenant := b.customer("")
	b.count(tenant, "inbox", 9000)
	return tenant
}
