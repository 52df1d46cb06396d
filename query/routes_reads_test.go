package query

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"odometer/api"
	"odometer/api/apitest"
)

// novemberQuery is a span that does not move with the clock.
const novemberQuery = "?from=2026-11-01T00:00:00Z&to=2026-11-24T00:00:00Z"

// readRoutes are all reads of a tenant, asked so that the answer depends on
// the tables alone.
var readRoutes = map[string]struct{ path, accept string }{
	"usage":       {usageRoute, ""},
	"history":     {historyRoute + novemberQuery + "&group_by=agent,action_type", ""},
	"events":      {eventsRoute + novemberQuery, ""},
	"events file": {eventsRoute + novemberQuery, csvType},
	"forecast":    {forecastRoute, ""},
	"periods":     {periodsRoute, ""},
	"alerts":      {alertsRoute, ""},
}

// readAll asks every read.
func readAll(t testing.TB, h http.Handler, bearer string) map[string]string {
	t.Helper()
	bodies := map[string]string{}
	for name, route := range readRoutes {
		r := apitest.Get(h, route.path, bearer, "Accept", route.accept)
		bodies[name] = apitest.Body(t, r)
		if r.StatusCode != http.StatusOK {
			t.Fatalf("%s: status %d: %s", name, r.StatusCode, bodies[name])
		}
	}
	return bodies
}

// also adds a parameter to a path.
func also(path, parameter string) string {
	if strings.Contains(path, "?") {
		return path + "&" + parameter
	}
	return path + "?" + parameter
}

// whatever writes anything about a tenant.
func (b *testEnv) whatever(t *rapid.T, tenant uuid.UUID) {
	at := instant("2026-11-02T00:00:00Z").Add(time.Duration(rapid.Int64Range(0, 20*24).Draw(t, "hour")) * time.Hour)
	agent := rapid.SampledFrom([]string{"inbox", "invoice", "meeting", "unheard_of"}).Draw(t, "agent")
	switch rapid.SampledFrom([]string{"event", "alert", "removed", "past", "period"}).Draw(t, "what") {
	case "event":
		b.add(tenant, Event{OccurredAt: at, Agent: agent, Quantity: rapid.Int64Range(1, 1000).Draw(t, "quantity")})
	case "alert":
		b.exec(raiseSQL+` on conflict do nothing`, tenant, agent, "2026-11-01Z", rapid.SampledFrom([]int{80, 100}).Draw(t, "threshold"), 500, 500, at, nil)
	case "removed":
		b.exec(`insert into usage_removed (tenant_id, agent, period_start, quantity, events) values ($1, $2, '2026-06-01Z', 1, 1) on conflict do nothing`, tenant, agent)
	case "past":
		b.exec(`insert into billing_periods (tenant_id, period_start, period_end) values ($1, '2026-10-01Z', '2026-11-01Z') on conflict do nothing`, tenant)
	case "period":
		b.exec(`update billing_periods set trial = not trial where tenant_id = $1`, tenant)
	}
}

func TestReadsShowNoOtherTenant(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	b.actions()
	c := &clock{time.Now()}
	h := newAPI(t, b.pool, 0, func(o *api.Options) { o.Now = c.now })
	rapid.Check(t, func(t *rapid.T) {
		own, other := b.customer("price_bundle_monthly"), b.customer("price_bundle_monthly")
		for range rapid.IntRange(0, 5).Draw(t, "own rows") {
			b.whatever(t, own)
		}
		before := readAll(b, h, reads(b, own))
		for range rapid.IntRange(1, 8).Draw(t, "another's rows") {
			b.whatever(t, other)
		}
		if diff := cmp.Diff(before, readAll(b, h, reads(b, own))); diff != "" {
			t.Fatal(diff)
		}
		c.at = c.at.Add(time.Minute) // no limit is reached
	})
}

func TestOnlyOperatorsReadAnotherTenant(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	h := newAPI(t, b.pool, 0)
	own, other := exampleCustomer(b), exampleCustomer(b)
	b.exec(`update subscriptions set status = 'canceled' where tenant_id = $1`, other)
	for name, route := range readRoutes {
		admin := token(t, api.Claims{Role: api.Admin, Scopes: []string{api.ReadScope}})
		r := apitest.Get(h, also(route.path, "tenant_id="+other.String()), admin, "Accept", route.accept)
		if name == "usage" { // by the contract it answers of an active subscription only
			apitest.WantProblem(t, r, "403 subscription-inactive")
			continue
		}
		if body := apitest.Body(t, r); r.StatusCode != http.StatusOK || !strings.Contains(body, other.String()) && route.accept != csvType {
			t.Errorf("%s for an operator: status %d: %s", name, r.StatusCode, body)
		}
	}
	for name, route := range readRoutes {
		apitest.WantProblem(t, apitest.Get(h, also(route.path, "tenant_id="+other.String()), reads(t, own), "Accept", route.accept), "403 forbidden")
		apitest.WantProblem(t, apitest.Get(h, route.path, reads(t, other), "Accept", route.accept), "403 subscription-inactive")
		apitest.WantProblem(t, apitest.Get(h, route.path, reads(t, uuid.New()), "Accept", route.accept), "404 no-subscription")
		apitest.WantProblem(t, apitest.Get(h, route.path, "", "Accept", route.accept), "401 unauthorized")
		writes := token(t, api.Claims{Tenant: own, Scopes: []string{api.WriteScope}})
		apitest.WantProblem(t, apitest.Get(h, route.path, writes, "Accept", route.accept), "403 forbidden")
		apitest.WantProblem(t, apitest.Do(h, http.MethodDelete, route.path, reads(t, own), ""), "405 invalid-request")
		if t.Failed() {
			t.Fatal(name)
		}
	}
	b.exec(`update stream_positions set complete_until = null`)
	for _, route := range readRoutes {
		apitest.WantProblem(t, apitest.Get(h, route.path, reads(t, own), "Accept", route.accept), "503 unavailable")
	}
}

func TestInvalidParametersAreNamedWithWhatIsAllowed(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	bearer := reads(t, exampleCustomer(b))
	c := &clock{time.Now()}
	h := newAPI(t, b.pool, 0, func(o *api.Options) { o.Now = c.now })
	tests := []struct{ path, says string }{
		{historyRoute + "?from=yesterday", `from is "yesterday": it must be a time of RFC 3339, as 2026-11-01T00:00:00Z`},
		{historyRoute + "?from=2026-11-01", `from is "2026-11-01": it must be a time of RFC 3339`},
		{historyRoute + "?to=2026-11-01T00:00:00+01:00", `write %2B`},
		{historyRoute + "?from=0001-01-01T00:00:00Z", `in the years 1970 to 2999`},
		{historyRoute + "?from=9999-12-31T23:00:00Z&to=9999-12-31T23:59:59Z&window=month", `in the years 1970 to 2999`},
		{historyRoute + "?from=2026-11-02T00:00:00Z&to=2026-11-01T00:00:00Z", "from must be before to"},
		{historyRoute + "?from=2024-11-02T00:00:00Z&to=2026-11-01T00:00:00Z", "by day, at most 366 days"},
		{historyRoute + "?window=week", `window is "week": it must be one of hour, day, month`},
		{historyRoute + "?group_by=tenant_id", `it must be one of agent, action_type`},
		{historyRoute + "?group_by=agent,agent", "it must hold nothing twice"},
		{historyRoute + "?timezone=Mars/Olympus", `timezone is "Mars/Olympus": it must be a name of the IANA list`},
		{historyRoute + "?timezone=Local", `timezone is "Local"`},
		{historyRoute + "?timezone=%00", "timezone is"},
		{eventsRoute + "?from=x", `from is "x"`},
		{eventsRoute + "?to=x", `to is "x"`},
		{eventsRoute + "?from=2026-11-02T00:00:00Z&to=2026-11-01T00:00:00Z", "from must be before to"},
		{eventsRoute + "?from=2026-10-01T00:00:00Z&to=2026-11-02T00:00:00Z", "at most 31 days"},
		{eventsRoute + "?limit=0", `limit is 0: it must be at least 1`},
		{eventsRoute + "?limit=1001", `limit is 1001: it must be at most 1000`},
		{eventsRoute + "?limit=many", `limit is "many": it must be a whole number from 1 to 1000`},
		{eventsRoute + "?agent=In+Box", `agent is "In Box": it must be a small letter and up to 31`},
		{eventsRoute + "?action_type=%00", "action_type is"},
		{eventsRoute + "?action_type=%FF", "action_type is"},
		{eventsRoute + "?cursor=rubbish", `cursor is "rubbish": it must be the next_cursor of an answer to the same request`},
		{periodsRoute + "?limit=0", "limit is 0: it must be at least 1"},
		{periodsRoute + "?limit=101", "limit is 101: it must be at most 100"},
		{periodsRoute + "?cursor=rubbish", `cursor is "rubbish"`},
	}
	for _, test := range tests {
		for _, accept := range []string{jsonType, csvType} {
			detail := apitest.WantProblem(t, apitest.Get(h, test.path, bearer, "Accept", accept), "400 invalid-request")
			if !strings.Contains(detail, test.says) {
				t.Errorf("%s: %q does not say %q", test.path, detail, test.says)
			}
		}
		c.at = c.at.Add(2 * time.Second)
	}
}

func TestHistoryDistinguishesEmptyGroupByFromTheDefault(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := exampleCustomer(b)
	b.add(tenant, Event{OccurredAt: instant("2026-11-10T00:00:00Z")})
	h, bearer := newAPI(t, b.pool, 0), reads(t, tenant)
	for query, want := range map[string][]string{"": {"agent"}, "&group_by=": {}, "&group_by=action_type": {"action_type"}, "&group_by=action_type,agent": {"action_type", "agent"}} {
		got := apitest.Decode[History](t, apitest.Get(h, historyRoute+novemberQuery+query, bearer))
		groups := 0
		for _, bucket := range got.Buckets {
			groups += len(bucket.Groups)
		}
		if diff := cmp.Diff(want, got.GroupBy); diff != "" || groups != min(1, len(want)) {
			t.Errorf("%q: %d groups, by %s", query, groups, diff)
		}
	}
}

func TestEachReadHasItsOwnRateLimit(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := exampleCustomer(b)
	c := &clock{time.Now()}
	h, bearer := newAPI(t, b.pool, 1, func(o *api.Options) { o.Now = c.now }), reads(t, tenant)
	for name, route := range readRoutes {
		if name == "events file" {
			continue // counted with the pages
		}
		most := map[bool]int{true: 1, false: readsPerMinute}[name == "usage"]
		for i := range most {
			accept := jsonType
			if name == "events" && i%2 == 1 {
				accept = csvType
			}
			if r := apitest.Get(h, route.path, bearer, "Accept", accept); r.StatusCode != http.StatusOK {
				t.Fatalf("%s: status %d of request %d", name, r.StatusCode, i+1)
			}
		}
		apitest.WantProblem(t, apitest.Get(h, route.path, bearer), "429 rate-limited")
		apitest.WantProblem(t, apitest.Get(h, route.path, bearer, "Accept", csvType), "429 rate-limited")
	}
}

func TestAsOfIsAlsoAHeader(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	bearer := reads(t, exampleCustomer(b))
	h := newAPI(t, b.pool, 0)
	for name, route := range readRoutes {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			r := apitest.Do(h, method, route.path, bearer, "", "Accept", route.accept)
			if got := r.Header.Get("Odometer-As-Of"); got != "2026-11-23T07:15:33.120Z" || r.StatusCode != http.StatusOK {
				t.Errorf("%s %s: status %d, as of %q", method, name, r.StatusCode, got)
			}
		}
	}
}

// A tenant that asks for much at once, within its requests a minute, is refused
// some of it; the usage of the moment is answered to everybody.
func TestLargeReadsOfOneTenantDoNotBlockOthers(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	greedy, other := b.customer("price_bundle_monthly"), b.customer("price_bundle_monthly")
	h := newAPI(t, b.pool, 0)
	tx, err := b.pool.Begin(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	// No read of events ends before this does.
	if _, err := tx.Exec(context.Background(), `lock table usage_events in access exclusive mode`); err != nil {
		t.Fatal(err)
	}
	const asked = 10
	answers := make(chan *http.Response, asked)
	for range asked {
		go func() { answers <- apitest.Get(h, historyRoute, reads(t, greedy)) }()
	}
	for range asked - scansEach {
		apitest.WantProblem(t, <-answers, "503 unavailable")
	}
	if r := apitest.Get(h, usageRoute, reads(t, other)); r.StatusCode != http.StatusOK {
		t.Errorf("another tenant's usage: status %d", r.StatusCode)
	}
	if err := tx.Rollback(context.Background()); err != nil {
		t.Fatal(err)
	}
	for range scansEach {
		if r := <-answers; r.StatusCode != http.StatusOK {
			t.Errorf("a history that was let in: status %d", r.StatusCode)
		}
	}
}
