package query

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
)

func (b *testEnv) alerts(tenant uuid.UUID) *Alerts {
	b.Helper()
	a, err := ReadAlerts(context.Background(), b.pool, reading(tenant))
	if err != nil {
		b.Fatal(err)
	}
	return a
}

const raiseSQL = `
insert into usage_alerts (tenant_id, agent, period_start, threshold, "limit", level, count, raised_at, delivered_at)
values ($1, $2, $3, $4, $5, case $4::int when 80 then 'warning' else 'error' end, $6, $7, $8)`

func TestAlertsAreThoseOfUsageWithWhenTheyWereRaised(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant, other := exampleCustomer(b), exampleCustomer(b)
	b.exec(raiseSQL, tenant, "inbox", "2026-11-01Z", 80, 500, 401, "2026-11-20T09:00:00Z", "2026-11-20T09:00:05Z")
	b.exec(raiseSQL, tenant, "inbox", "2026-11-01Z", 80, 400, 320, "2026-11-18T09:00:00Z", nil) // of an earlier limit
	b.exec(raiseSQL, tenant, "inbox", "2026-10-01Z", 100, 500, 500, "2026-10-30T09:00:00Z", nil)
	b.exec(raiseSQL, tenant, "invoice", "2026-11-01Z", 80, 50, 41, "2026-11-21T09:00:00Z", nil) // not of the level that holds
	b.exec(raiseSQL, other, "invoice", "2026-11-01Z", 100, 50, 50, "2026-11-22T09:00:00Z", nil)
	text, err := json.Marshal(b.alerts(tenant))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"tenant_id":"` + tenant.String() + `","period_start":"2026-11-01T00:00:00Z","period_end":"2026-12-01T00:00:00Z","as_of":"2026-11-23T07:15:33.120Z","alerts":[` +
		`{"agent":"inbox","level":"warning","message":"You've used 85% of your email quota this month","percentage":85,"count":425,"limit":500,"raised_at":"2026-11-20T09:00:00Z"},` +
		`{"agent":"invoice","level":"error","message":"You've exceeded your invoice quota. Extra charges: $0.20","percentage":104,"count":52,"limit":50,"raised_at":null}],"raised":[` +
		`{"agent":"invoice","level":"warning","threshold":80,"limit":50,"count":41,"period_start":"2026-11-01T00:00:00Z","raised_at":"2026-11-21T09:00:00Z","delivered_at":null},` +
		`{"agent":"inbox","level":"warning","threshold":80,"limit":500,"count":401,"period_start":"2026-11-01T00:00:00Z","raised_at":"2026-11-20T09:00:00Z","delivered_at":"2026-11-20T09:00:05Z"},` +
		`{"agent":"inbox","level":"warning","threshold":80,"limit":400,"count":320,"period_start":"2026-11-01T00:00:00Z","raised_at":"2026-11-18T09:00:00Z","delivered_at":null},` +
		`{"agent":"inbox","level":"error","threshold":100,"limit":500,"count":500,"period_start":"2026-10-01T00:00:00Z","raised_at":"2026-10-30T09:00:00Z","delivered_at":null}]}`
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Error(diff)
	}
}

func TestAlertsAreBoundedAndNeverNull(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	calm, noisy := b.customer("price_bundle_monthly"), b.customer("price_bundle_monthly")
	if text, _ := json.Marshal(b.alerts(calm)); !json.Valid(text) || b.alerts(calm).Alerts == nil || b.alerts(calm).Raised == nil {
		t.Errorf("%s", text)
	}
	b.exec(`insert into usage_alerts (tenant_id, agent, period_start, threshold, "limit", level, count, raised_at)
		select $1, 'inbox', '2026-11-01Z', 80, n, 'warning', n, timestamptz '2026-11-01Z' + n * interval '1 minute' from generate_series(1, 150) as n`, noisy)
	if raised := b.alerts(noisy).Raised; len(raised) != maxRaised || raised[0].Limit != 150 {
		t.Errorf("%d raised, the first of limit %d", len(raised), raised[0].Limit)
	}
}
