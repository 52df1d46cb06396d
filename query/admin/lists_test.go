package admin

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"odometer/api/apitest"
)

// link gives the ledger a link; the newer, the higher its revision.
func (b *testEnv) link(tenant uuid.UUID, revision int, state string, from, to int64) {
	b.Helper()
	b.exec(`insert into overage_reports (tenant_id, agent, period_start, billed_period_start, revision, from_total, to_total, value,
			sink, account, livemode, stripe_customer, meter, reported_at, identifier, generation, state, created_at)
		values ($1::uuid, 'inbox', '2026-11-01Z', '2026-11-01Z', $2, $4, $5, $5::bigint - $4,
			'meter_events', 'acct_1', false, 'cus_' || $1::uuid, 'inbox_overage', now(), 'odo_' || $1::uuid || '_' || $2::integer, 1, $3, $6)`,
		tenant, revision, state, from, to, at(time.Duration(revision/2)*time.Second))
}

// Page by page each link comes once, the newest first, while new ones come in.
func TestPagesOfTheLedgerHoldEachEntryOnce(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	one, two := uuid.New(), uuid.New()
	for i := range 25 {
		b.link(one, i, "accepted", int64(i), int64(i+2))
	}
	b.link(two, 1, "planned", 0, 7)
	b.link(two, 2, "rejected", 7, 4)
	h := b.newAPI(&acted{})
	ask := func(query string) Ledger {
		t.Helper()
		return apitest.Decode[Ledger](t, apitest.Get(h, base+"ledger?"+query, operator(t)))
	}
	var seen []LedgerEntry
	cursor := ""
	for {
		page := ask("limit=4&cursor=" + cursor)
		if cursor == "" && fmt.Sprint(page.Totals) != "[{planned 1 7} {accepted 25 50} {rejected 1 -3}]" {
			t.Errorf("totals %v", page.Totals)
		}
		seen = append(seen, page.Links...)
		if page.NextCursor == nil {
			break
		}
		cursor = *page.NextCursor
		b.link(two, 100+len(seen), "accepted", 4, 5)
	}
	once := map[string]bool{}
	for i, l := range seen {
		once[l.Identifier] = true
		if i > 0 && l.CreatedAt.After(seen[i-1].CreatedAt) {
			t.Errorf("link %s of %s after one of %s", l.Identifier, l.CreatedAt, seen[i-1].CreatedAt)
		}
	}
	if len(seen) != 27 || len(once) != 27 {
		t.Errorf("%d links, %d of them once", len(seen), len(once))
	}
	if page := ask("state=rejected"); len(page.Links) != 1 || page.Links[0].Value != -3 || page.Links[0].TenantID != two || page.Links[0].FirstAttemptAt != nil {
		t.Errorf("rejected: %+v", page.Links)
	}
	for _, id := range []string{one.String(), strings.ToUpper(one.String())} {
		if page := ask("tenant_id=" + id); len(page.Links) != 25 || fmt.Sprint(page.Totals) != "[{accepted 25 50}]" {
			t.Errorf("of tenant %s: %d links, %v", id, len(page.Links), page.Totals)
		}
	}
	if page := ask("tenant_id=" + uuid.NewString()); len(page.Links) != 0 || page.Links == nil || page.Totals == nil {
		t.Errorf("of nobody: %+v", page)
	}
}

func TestAResolvedFindingStaysUnchanged(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := uuid.New()
	b.exec(`insert into audit_findings (kind, subject, tenant_id, agent, period_start, detail, before, after, found_by)
		values ('counter_drift', 'x', $1, 'inbox', '2026-11-01Z', 'it differs', 5, 7, 'audit'), ('job_stale', 'report', null, null, null, 'run it', null, null, 'alerts')`, tenant)
	h := b.newAPI(&acted{})
	list := func(query string) []Finding {
		t.Helper()
		return apitest.Decode[FindingList](t, apitest.Get(h, base+"findings"+query, operator(t))).Findings
	}
	open := list("")
	if len(open) != 2 || open[0].Kind != "job_stale" || open[0].TenantID != nil || *open[1].TenantID != tenant || *open[1].After != 7 || open[1].PeriodStart.Location() != time.UTC {
		t.Fatalf("open: %+v", open)
	}
	resolve := func(how string) Finding {
		t.Helper()
		body := fmt.Sprintf(`{"resolution":%q}`, how)
		return apitest.Decode[Finding](t, apitest.Do(h, http.MethodPost, fmt.Sprintf("%sfindings/%d/resolve", base, open[1].FindingID), operator(t), body))
	}
	first := resolve("replayed")
	again := resolve("it was me")
	if *first.Resolution != "replayed" || *again.Resolution != "replayed" || !first.ResolvedAt.Equal(*again.ResolvedAt) {
		t.Errorf("resolved as %q, then as %q", *first.Resolution, *again.Resolution)
	}
	if got := list(""); len(got) != 1 || got[0].Kind != "job_stale" {
		t.Errorf("open: %+v", got)
	}
	if got := list("?state=resolved"); len(got) != 1 || *got[0].ResolvedBy != "ops@example.com" {
		t.Errorf("resolved: %+v", got)
	}
	if got := list("?state=all&limit=1"); len(got) != 1 {
		t.Errorf("all, one of them: %+v", got)
	}
}

func TestTheLastAuditIsTheNewest(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	h := b.newAPI(&acted{})
	ask := func() string { return apitest.Body(t, apitest.Get(h, base+"audits/latest", operator(t))) }
	if got := ask(); got != `{"audit":null}` {
		t.Error(got)
	}
	for _, by := range []string{"first", "second"} {
		b.exec(`insert into audits (at, by, different, report)
			values ('2026-11-23 04:00:00+01', $1, 2, '{"at":"2026-11-23T03:00:00Z","comparisons":[],"differences":[],"notes":[]}')`, by)
	}
	if got := ask(); !strings.HasPrefix(got, `{"audit":{"at":"2026-11-23T03:00:00Z","by":"second","different":2,"report":{`) {
		t.Error(got)
	}
}

func TestAlertsAreTheNewest(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	b.exec(`insert into usage_alerts (tenant_id, agent, period_start, threshold, "limit", level, count, raised_at, delivered_at)
		select gen_random_uuid(), 'inbox', '2026-11-01Z', 80, 500, 'warning', n, now() - n * interval '1 minute', case when n = 1 then now() end
		from generate_series(1, 120) n`)
	h := b.newAPI(&acted{})
	for query, want := range map[string]int{"": 100, "?limit=500": 120, "?limit=1": 1} {
		got := apitest.Decode[TenantAlertList](t, apitest.Get(h, base+"alerts"+query, operator(t))).Alerts
		if len(got) != want || got[0].Count != 1 || got[0].DeliveredAt == nil || got[len(got)-1].Count != int64(want) {
			t.Errorf("%s: %d alerts", query, len(got))
		}
	}
}
