package query

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"odometer"
	"odometer/api"
	"odometer/api/apitest"
)

func TestAnswerOverHTTP(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := exampleCustomer(b)
	r := apitest.Get(newAPI(t, b.pool, 0), usageRoute, reads(t, tenant))
	wantExample(t, tenant, apitest.Body(t, r))
	if r.StatusCode != http.StatusOK {
		t.Errorf("status %d", r.StatusCode)
	}
	for name, want := range map[string]string{
		"Content-Type":           "application/json",
		"Cache-Control":          "private, no-cache",
		"Vary":                   "Authorization",
		"X-Content-Type-Options": "nosniff",
		"Odometer-As-Of":         "2026-11-23T07:15:33.120Z",
	} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestHeadIsGetWithoutABody(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := exampleCustomer(b)
	server := httptest.NewServer(newAPI(t, b.pool, 0))
	defer server.Close()
	ask := func(method string) *http.Response {
		r, err := http.NewRequest(method, server.URL+usageRoute, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+reads(t, tenant))
		out, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { out.Body.Close() })
		return out
	}
	got, head := ask(http.MethodGet), ask(http.MethodHead)
	if head.StatusCode != http.StatusOK || apitest.Body(t, head) != "" {
		t.Errorf("status %d", head.StatusCode)
	}
	for _, name := range []string{"Etag", "Content-Length", "Content-Type", "Odometer-As-Of"} {
		if head.Header.Get(name) == "" || head.Header.Get(name) != got.Header.Get(name) {
			t.Errorf("%s: HEAD %q, GET %q", name, head.Header.Get(name), got.Header.Get(name))
		}
	}
}

func TestUnchangedUsageIs304(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := exampleCustomer(b)
	h := newAPI(t, b.pool, 0)
	bearer := reads(t, tenant)
	tag := apitest.Get(h, usageRoute, bearer).Header.Get("ETag")
	if !strings.HasPrefix(tag, `W/"`) {
		t.Errorf("tag %q is not weak", tag)
	}

	b.exec(`update stream_positions set complete_until = '2026-11-23T08:00:00Z'`)
	r := apitest.Get(h, usageRoute, bearer, "If-None-Match", `"other"`, "If-None-Match", tag)
	if r.StatusCode != http.StatusNotModified || apitest.Body(t, r) != "" {
		t.Errorf("status %d with only as_of changed", r.StatusCode)
	}
	if r.Header.Get("ETag") != tag || r.Header.Get("Odometer-As-Of") != "2026-11-23T08:00:00.000Z" ||
		r.Header.Get("Cache-Control") == "" || r.Header.Get("Vary") == "" {
		t.Errorf("headers of the 304: %v", r.Header)
	}

	b.count(tenant, "inbox", 426)
	r = apitest.Get(h, usageRoute, bearer, "If-None-Match", tag)
	if r.StatusCode != http.StatusOK || r.Header.Get("ETag") == tag {
		t.Errorf("status %d after the count changed, tag %s", r.StatusCode, r.Header.Get("ETag"))
	}
}

func TestChecksComeInTheContractsOrder(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	h := newAPI(t, b.pool, 1)
	exhausted := func(tenant uuid.UUID) uuid.UUID {
		apitest.Get(h, usageRoute, reads(t, tenant))
		return tenant
	}
	inactive := b.customer("price_bundle_monthly")
	b.exec(`update subscriptions set status = 'past_due' where tenant_id = $1`, inactive)
	unread := b.customer("price_bundle_monthly")
	b.exec(`update stream_positions set complete_until = null`)

	// Each request has, besides its own fault, those that are checked later.
	unscoped := token(t, api.Claims{Tenant: exhausted(uuid.New())})
	apitest.WantProblem(t, apitest.Get(h, usageRoute, ""), "401 unauthorized")
	apitest.WantProblem(t, apitest.Get(h, usageRoute+"?tenant_id="+inactive.String(), unscoped), "403 forbidden")
	apitest.WantProblem(t, apitest.Get(h, usageRoute, reads(t, exhausted(uuid.New()))), "429 rate-limited")
	apitest.WantProblem(t, apitest.Get(h, usageRoute, reads(t, uuid.New())), "404 no-subscription")
	detail := apitest.WantProblem(t, apitest.Get(h, usageRoute, reads(t, inactive)), "403 subscription-inactive")
	if !strings.Contains(detail, "past_due") {
		t.Errorf("detail %q does not name the status", detail)
	}
	apitest.WantProblem(t, apitest.Get(h, usageRoute, reads(t, b.customer(""))), "500 no-plan")
	apitest.WantProblem(t, apitest.Get(h, usageRoute, reads(t, unread)), "503 unavailable")
	ahead := b.subscribe(odometer.Active, "price_bundle_monthly")
	apitest.WantProblem(t, apitest.Get(h, usageRoute, reads(t, ahead)), "404 no-subscription")
}

func TestTenantReadsItselfAndAdminReadsAll(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	h := newAPI(t, b.pool, 0)
	own, other := exampleCustomer(b), b.customer("price_bundle_monthly")
	scope := []string{api.ReadScope}
	tenant := token(t, api.Claims{Tenant: own, Scopes: scope})
	admin := token(t, api.Claims{Role: api.Admin, Scopes: scope})
	adminOfOwn := token(t, api.Claims{Role: api.Admin, Tenant: own, Scopes: scope})
	tests := []struct {
		name, bearer, query string
		reads               uuid.UUID
		refused             string
	}{
		{"tenant", tenant, "", own, ""},
		{"tenant names itself", tenant, "?tenant_id=" + own.String(), own, ""},
		{"tenant names another", tenant, "?tenant_id=" + other.String(), uuid.Nil, "403 forbidden"},
		{"tenant names itself and another", tenant, "?tenant_id=" + own.String() + "&tenant_id=" + other.String(), uuid.Nil, "403 forbidden"},
		{"tenant names rubbish", tenant, "?tenant_id=x", uuid.Nil, "403 forbidden"},
		{"admin names a tenant", admin, "?tenant_id=" + other.String(), other, ""},
		{"admin names another than its own", adminOfOwn, "?tenant_id=" + other.String(), other, ""},
		{"admin with a tenant of its own", adminOfOwn, "", own, ""},
		{"admin names nobody", admin, "", uuid.Nil, "401 unauthorized"},
		{"admin names rubbish", admin, "?tenant_id=x", uuid.Nil, "400 invalid-request"},
		{"admin names nothing", adminOfOwn, "?tenant_id=", uuid.Nil, "400 invalid-request"},
		{"admin writes it in capitals", admin, "?tenant_id=" + strings.ToUpper(other.String()), other, ""},
		{"admin writes it in braces", admin, "?tenant_id={" + other.String() + "}", uuid.Nil, "400 invalid-request"},
		{"admin names two", admin, "?tenant_id=" + own.String() + "&tenant_id=" + other.String(), uuid.Nil, "400 invalid-request"},
		{"broken query", adminOfOwn, "?tenant_id=%zz", uuid.Nil, "400 invalid-request"},
		{"another case is another parameter", tenant, "?Tenant_ID=" + other.String(), uuid.Nil, "400 invalid-request"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := apitest.Get(h, usageRoute+test.query, test.bearer)
			if test.reads == uuid.Nil {
				apitest.WantProblem(t, r, test.refused)
				return
			}
			if text := apitest.Body(t, r); !strings.HasPrefix(text, `{"tenant_id":"`+test.reads.String()+`"`) {
				t.Errorf("status %d: %s", r.StatusCode, text)
			}
		})
	}
}

func TestEleventhRequestInAMinuteIs429(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := exampleCustomer(b)
	c := &clock{time.Now()}
	h := newAPI(t, b.pool, 10, func(o *api.Options) { o.Now = c.now })
	bearer := reads(t, tenant)
	tag := apitest.Get(h, usageRoute, bearer).Header.Get("ETag")
	for i := range 9 {
		c.at = c.at.Add(time.Second)
		// Refused requests do not count; unchanged ones do.
		apitest.Get(h, usageRoute, "rubbish")
		apitest.Get(h, usageRoute, token(t, api.Claims{Tenant: tenant}))
		if r := apitest.Get(h, usageRoute, bearer, "If-None-Match", tag); r.StatusCode != http.StatusNotModified {
			t.Fatalf("request %d: status %d", i+2, r.StatusCode)
		}
	}
	r := apitest.Get(h, usageRoute, bearer)
	apitest.WantProblem(t, r, "429 rate-limited")
	if got := r.Header.Get("Retry-After"); got != "51" {
		t.Errorf("Retry-After %s, the first request was 9 s ago", got)
	}
	if r := apitest.Get(h, usageRoute, reads(t, exampleCustomer(b))); r.StatusCode != http.StatusOK {
		t.Errorf("another tenant: status %d", r.StatusCode)
	}
	admin := token(t, api.Claims{Role: api.Admin, Scopes: []string{api.ReadScope}})
	if r := apitest.Get(h, usageRoute+"?tenant_id="+tenant.String(), admin); r.StatusCode != http.StatusOK {
		t.Errorf("an admin: status %d", r.StatusCode)
	}
	c.at = c.at.Add(50*time.Second + time.Millisecond)
	r = apitest.Get(h, usageRoute, bearer)
	apitest.WantProblem(t, r, "429 rate-limited")
	if got := r.Header.Get("Retry-After"); got != "1" {
		t.Errorf("Retry-After %s for less than a second", got)
	}
	c.at = c.at.Add(time.Second)
	if r := apitest.Get(h, usageRoute, bearer); r.StatusCode != http.StatusOK {
		t.Errorf("after Retry-After: status %d", r.StatusCode)
	}
}

func TestInternalErrorsAreNotShown(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := exampleCustomer(b)
	b.exec(`drop table usage_counters`)
	var log bytes.Buffer
	h := newAPI(t, b.pool, 0, func(o *api.Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	detail := apitest.WantProblem(t, apitest.Get(h, usageRoute, reads(t, tenant)), "500 internal")
	for _, inside := range []string{"usage_counters", "SQLSTATE", "ERROR", tenant.String()} {
		if strings.Contains(detail, inside) {
			t.Errorf("detail tells %q: %s", inside, detail)
		}
	}
	if n := strings.Count(log.String(), "usage_counters"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, &log)
	}
}
