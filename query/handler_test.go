package query

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"odometer"
)

func TestAnswerOverHTTP(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	tenant := exampleCustomer(b)
	r := get(handler(t, b.pool, 0), usageRoute, reads(t, tenant))
	wantExample(t, tenant, body(t, r))
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
	b := newBooks(t)
	tenant := exampleCustomer(b)
	server := httptest.NewServer(handler(t, b.pool, 0))
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
	if head.StatusCode != http.StatusOK || body(t, head) != "" {
		t.Errorf("status %d", head.StatusCode)
	}
	for _, name := range []string{"Etag", "Content-Length", "Content-Type", "Odometer-As-Of"} {
		if head.Header.Get(name) == "" || head.Header.Get(name) != got.Header.Get(name) {
			t.Errorf("%s: HEAD %q, GET %q", name, head.Header.Get(name), got.Header.Get(name))
		}
	}
}

func TestUnchangedUsageCostsNoBody(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	tenant := exampleCustomer(b)
	h := handler(t, b.pool, 0)
	bearer := reads(t, tenant)
	tag := get(h, usageRoute, bearer).Header.Get("ETag")
	if !strings.HasPrefix(tag, `W/"`) {
		t.Errorf("tag %q is not weak", tag)
	}

	b.exec(`update stream_positions set complete_until = '2026-11-23T08:00:00Z'`)
	r := get(h, usageRoute, bearer, "If-None-Match", `"other"`, "If-None-Match", tag)
	if r.StatusCode != http.StatusNotModified || body(t, r) != "" {
		t.Errorf("status %d with only as_of changed", r.StatusCode)
	}
	if r.Header.Get("ETag") != tag || r.Header.Get("Odometer-As-Of") != "2026-11-23T08:00:00.000Z" ||
		r.Header.Get("Cache-Control") == "" || r.Header.Get("Vary") == "" {
		t.Errorf("headers of the 304: %v", r.Header)
	}

	b.count(tenant, "inbox", 426)
	r = get(h, usageRoute, bearer, "If-None-Match", tag)
	if r.StatusCode != http.StatusOK || r.Header.Get("ETag") == tag {
		t.Errorf("status %d after the count changed, tag %s", r.StatusCode, r.Header.Get("ETag"))
	}
}

func TestChecksComeInTheContractsOrder(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	h := handler(t, b.pool, 1)
	exhausted := func(tenant uuid.UUID) uuid.UUID {
		get(h, usageRoute, reads(t, tenant))
		return tenant
	}
	inactive := b.customer("price_bundle_monthly")
	b.exec(`update subscriptions set status = 'past_due' where tenant_id = $1`, inactive)
	unread := b.customer("price_bundle_monthly")
	b.exec(`update stream_positions set complete_until = null`)

	// Each request has, besides its own fault, those that are checked later.
	unscoped := token(t, Claims{Tenant: exhausted(uuid.New())})
	wantProblem(t, get(h, usageRoute, ""), unauthorized)
	wantProblem(t, get(h, usageRoute+"?tenant_id="+inactive.String(), unscoped), forbidden)
	wantProblem(t, get(h, usageRoute, reads(t, exhausted(uuid.New()))), rateLimited)
	wantProblem(t, get(h, usageRoute, reads(t, uuid.New())), noSubscription)
	detail := wantProblem(t, get(h, usageRoute, reads(t, inactive)), subscriptionInactive)
	if !strings.Contains(detail, "past_due") {
		t.Errorf("detail %q does not name the status", detail)
	}
	wantProblem(t, get(h, usageRoute, reads(t, b.customer(""))), noPlan)
	wantProblem(t, get(h, usageRoute, reads(t, unread)), unavailable)
	ahead := b.subscribe(odometer.Active, "price_bundle_monthly")
	wantProblem(t, get(h, usageRoute, reads(t, ahead)), noSubscription)
}

func TestTenantReadsItselfAndAdminReadsAll(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	h := handler(t, b.pool, 0)
	own, other := exampleCustomer(b), b.customer("price_bundle_monthly")
	scope := []string{readScope}
	tenant := token(t, Claims{Tenant: own, Scopes: scope})
	admin := token(t, Claims{Role: Admin, Scopes: scope})
	adminOfOwn := token(t, Claims{Role: Admin, Tenant: own, Scopes: scope})
	tests := []struct {
		name, bearer, query string
		reads               uuid.UUID
		refused             kind
	}{
		{"tenant", tenant, "", own, kind{}},
		{"tenant names itself", tenant, "?tenant_id=" + own.String(), own, kind{}},
		{"tenant names another", tenant, "?tenant_id=" + other.String(), uuid.Nil, forbidden},
		{"tenant names itself and another", tenant, "?tenant_id=" + own.String() + "&tenant_id=" + other.String(), uuid.Nil, forbidden},
		{"tenant names rubbish", tenant, "?tenant_id=x", uuid.Nil, forbidden},
		{"admin names a tenant", admin, "?tenant_id=" + other.String(), other, kind{}},
		{"admin names another than its own", adminOfOwn, "?tenant_id=" + other.String(), other, kind{}},
		{"admin with a tenant of its own", adminOfOwn, "", own, kind{}},
		{"admin names nobody", admin, "", uuid.Nil, unauthorized},
		{"admin names rubbish", admin, "?tenant_id=x", uuid.Nil, invalidRequest},
		{"admin names nothing", adminOfOwn, "?tenant_id=", uuid.Nil, invalidRequest},
		{"admin spells it otherwise", admin, "?tenant_id=" + strings.ToUpper(other.String()), uuid.Nil, invalidRequest},
		{"admin names two", admin, "?tenant_id=" + own.String() + "&tenant_id=" + other.String(), uuid.Nil, invalidRequest},
		{"broken query", adminOfOwn, "?tenant_id=%zz", uuid.Nil, invalidRequest},
		{"another case is another parameter", tenant, "?Tenant_ID=" + other.String(), own, kind{}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := get(h, usageRoute+test.query, test.bearer)
			if test.reads == uuid.Nil {
				wantProblem(t, r, test.refused)
				return
			}
			if text := body(t, r); !strings.HasPrefix(text, `{"tenant_id":"`+test.reads.String()+`"`) {
				t.Errorf("status %d: %s", r.StatusCode, text)
			}
		})
	}
}

func TestEleventhRequestInAMinuteWaits(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	tenant := exampleCustomer(b)
	c := &clock{time.Now()}
	h := newHandler(Options{Pool: b.pool, Keys: secretKeys(t), RequestsPerMinute: 10, Log: quiet}, c.now)
	bearer := reads(t, tenant)
	tag := get(h, usageRoute, bearer).Header.Get("ETag")
	for i := range 9 {
		c.at = c.at.Add(time.Second)
		// Refused requests do not count; unchanged ones do.
		get(h, usageRoute, "rubbish")
		get(h, usageRoute, token(t, Claims{Tenant: tenant}))
		if r := get(h, usageRoute, bearer, "If-None-Match", tag); r.StatusCode != http.StatusNotModified {
			t.Fatalf("request %d: status %d", i+2, r.StatusCode)
		}
	}
	r := get(h, usageRoute, bearer)
	wantProblem(t, r, rateLimited)
	if got := r.Header.Get("Retry-After"); got != "51" {
		t.Errorf("Retry-After %s, the first request was 9 s ago", got)
	}
	if r := get(h, usageRoute, reads(t, exampleCustomer(b))); r.StatusCode != http.StatusOK {
		t.Errorf("another tenant: status %d", r.StatusCode)
	}
	admin := token(t, Claims{Role: Admin, Scopes: []string{readScope}})
	if r := get(h, usageRoute+"?tenant_id="+tenant.String(), admin); r.StatusCode != http.StatusOK {
		t.Errorf("an admin: status %d", r.StatusCode)
	}
	c.at = c.at.Add(50*time.Second + time.Millisecond)
	r = get(h, usageRoute, bearer)
	wantProblem(t, r, rateLimited)
	if got := r.Header.Get("Retry-After"); got != "1" {
		t.Errorf("Retry-After %s for less than a second", got)
	}
	c.at = c.at.Add(time.Second)
	if r := get(h, usageRoute, bearer); r.StatusCode != http.StatusOK {
		t.Errorf("after Retry-After: status %d", r.StatusCode)
	}
}

func TestOtherPathsAndMethodsAreProblems(t *testing.T) {
	t.Parallel()
	h := handler(t, nil, 0)
	for _, path := range []string{"/", "/api/v1/usage/", "/api/v1/Usage", "/api"} {
		wantProblem(t, get(h, path, ""), notFound)
	}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch, http.MethodOptions} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, usageRoute, nil))
		wantProblem(t, w.Result(), methodNotAllowed)
		if got := w.Header().Get("Allow"); got != "GET, HEAD" {
			t.Errorf("Allow: %q", got)
		}
	}
}

func TestInsideStaysInside(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	tenant := exampleCustomer(b)
	b.exec(`drop table usage_counters`)
	var log bytes.Buffer
	h := NewHandler(Options{Pool: b.pool, Keys: secretKeys(t), Log: slog.New(slog.NewTextHandler(&log, nil))})
	detail := wantProblem(t, get(h, usageRoute, reads(t, tenant)), internal)
	for _, inside := range []string{"usage_counters", "SQLSTATE", "ERROR", tenant.String()} {
		if strings.Contains(detail, inside) {
			t.Errorf("detail tells %q: %s", inside, detail)
		}
	}
	if n := strings.Count(log.String(), "usage_counters"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, &log)
	}
}

func TestLogSaysWhoAskedAndNoSecret(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	tenant := exampleCustomer(b)
	var log bytes.Buffer
	h := NewHandler(Options{Pool: b.pool, Keys: secretKeys(t), Log: slog.New(slog.NewJSONHandler(&log, nil))})
	bearer := token(t, Claims{Subject: "dana", Tenant: tenant, Scopes: []string{readScope}})
	get(h, usageRoute+"?api_key=hush", bearer)
	var line struct {
		Level, Msg, Method, Route, Tenant, Subject string
		Status, Duration                           int64
	}
	if err := json.Unmarshal(log.Bytes(), &line); err != nil {
		t.Fatalf("not one line: %v\n%s", err, &log)
	}
	if line.Level != "INFO" || line.Method != "GET" || line.Route != usageRoute || line.Status != 200 ||
		line.Tenant != tenant.String() || line.Subject != "dana" || line.Duration <= 0 {
		t.Errorf("%s", &log)
	}
	for _, secret := range []string{bearer, "hush"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("the log tells %s", secret)
		}
	}
}
