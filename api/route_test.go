package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"odometer/api/apitest"
)

var errInside = errors.New(`relation "secret_table" does not exist`)

func goodToken(t testing.TB) string {
	t.Helper()
	return token(t, Claims{Subject: "dana", Tenant: someTenant, Scopes: []string{ReadScope}})
}

func TestAnswersAreCachedForTheirCallerAlone(t *testing.T) {
	t.Parallel()
	r := apitest.Get(handler(t), someRoute, goodToken(t))
	if got := apitest.Body(t, r); r.StatusCode != http.StatusOK || got != `{"tenant":"`+someTenant.String()+`","word":"one"}` {
		t.Errorf("status %d: %s", r.StatusCode, got)
	}
	for name, want := range map[string]string{
		"Content-Type":            "application/json",
		"Cache-Control":           "private, no-cache",
		"Vary":                    "Authorization",
		"X-Content-Type-Options":  "nosniff",
		"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
	} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestInvalidInputIsAnsweredWithWhatIsAllowed(t *testing.T) {
	t.Parallel()
	detail := apitest.WantProblem(t, apitest.Get(handler(t), someRoute+"?word=three", goodToken(t)), "400 invalid-request")
	for _, says := range []string{"word", `"three"`, "one"} {
		if !strings.Contains(detail, says) {
			t.Errorf("detail %q lacks %s", detail, says)
		}
	}
	// An unauthorized caller learns nothing about the input.
	apitest.WantProblem(t, apitest.Get(handler(t), someRoute+"?word=three", ""), "401 unauthorized")
}

func TestEveryFailureIsAProblem(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"refused": "404 not-found", "broken": "503 unavailable", "bug": "500 internal", "inside": "500 internal",
	} {
		detail := apitest.WantProblem(t, apitest.Get(handler(t), someRoute+"?fails="+name, goodToken(t)), want)
		if strings.Contains(detail, "secret_table") || strings.Contains(detail, "a bug") {
			t.Errorf("%s tells of the inside: %s", name, detail)
		}
	}
}

func TestInternalErrorsAreLoggedOnce(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	h := handlerWith(Options{Keys: secretKeys(t), Log: slog.New(slog.NewTextHandler(&log, nil))})
	apitest.Get(h, someRoute+"?fails=inside", goodToken(t))
	if n := strings.Count(log.String(), "secret_table"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, &log)
	}
}

func TestOtherPathsAndMethodsAreProblems(t *testing.T) {
	t.Parallel()
	h := handler(t)
	for _, path := range []string{"/", someRoute + "/", "/api/v1/Something", "/api"} {
		apitest.WantProblem(t, apitest.Get(h, path, ""), "404 not-found")
	}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch, http.MethodOptions} {
		r := apitest.Do(h, method, someRoute, "", "")
		apitest.WantProblem(t, r, "405 invalid-request")
		if got := r.Header.Get("Allow"); got != "GET, HEAD" {
			t.Errorf("Allow: %q", got)
		}
	}
}

// A page that says its length itself, as http.ServeContent does, is believed.
func TestHeadSaysTheLengthOfWhatGetWouldAnswer(t *testing.T) {
	t.Parallel()
	a := New(Options{Keys: secretKeys(t), Log: apitest.Quiet})
	a.Mux().HandleFunc("GET /page", func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "page.html", time.Time{}, strings.NewReader("a page"))
	})
	server := httptest.NewServer(a.Handler())
	t.Cleanup(server.Close)
	r, err := server.Client().Head(server.URL + "/page")
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.ContentLength != 6 {
		t.Errorf("length %d", r.ContentLength)
	}
}

func TestAdminRoutesAreForAdmins(t *testing.T) {
	t.Parallel()
	a := New(Options{Keys: secretKeys(t), Log: apitest.Quiet})
	RegisterPlain(a, Route{ID: "operate", Method: http.MethodPost, Path: "/api/v1/admin/x/{id}", Scope: WriteScope, AdminOnly: true, PerMinute: 1},
		func(w http.ResponseWriter, r *http.Request, who Caller) error {
			_, err := io.WriteString(w, r.PathValue("id")+" "+who.Who())
			return err
		})
	h := a.Handler()
	post := func(bearer string) *http.Response {
		return apitest.Do(h, http.MethodPost, "/api/v1/admin/x/7", bearer, "")
	}
	both := []string{ReadScope, WriteScope}
	apitest.WantProblem(t, post(""), "401 unauthorized")
	apitest.WantProblem(t, post(token(t, Claims{Tenant: someTenant, Scopes: both})), "403 forbidden")
	apitest.WantProblem(t, post(token(t, Claims{Role: Admin, Scopes: []string{ReadScope}})), "403 forbidden")
	admin := token(t, Claims{Subject: "olga", Role: Admin, Scopes: both})
	if got := apitest.Body(t, post(admin)); got != "7 olga" {
		t.Errorf("an admin got %q", got)
	}
	apitest.WantProblem(t, post(admin), "429 rate-limited")
	if got := apitest.Body(t, post(token(t, Claims{Role: Admin, Scopes: both}))); got != "7 api" {
		t.Errorf("another admin got %q", got)
	}
}

func TestWritingIsForTheTokensOwnTenant(t *testing.T) {
	t.Parallel()
	a := New(Options{Keys: secretKeys(t), Log: apitest.Quiet})
	RegisterPlain(a, Route{ID: "write", Method: http.MethodPost, Path: "/api/v1/w", Scope: WriteScope},
		func(w http.ResponseWriter, _ *http.Request, who Caller) error {
			_, err := io.WriteString(w, who.Tenant.String())
			return err
		})
	h := a.Handler()
	scope := []string{WriteScope}
	own, admin := token(t, Claims{Tenant: someTenant, Scopes: scope}), token(t, Claims{Role: Admin, Scopes: scope})
	adminOfOwn := token(t, Claims{Role: Admin, Tenant: someTenant, Scopes: scope})
	other := "?tenant_id=" + uuid.NewString()
	for _, bearer := range []string{own, adminOfOwn} {
		if got := apitest.Body(t, apitest.Do(h, http.MethodPost, "/api/v1/w?tenant_id="+someTenant.String(), bearer, "")); got != someTenant.String() {
			t.Errorf("wrote for %s", got)
		}
		apitest.WantProblem(t, apitest.Do(h, http.MethodPost, "/api/v1/w"+other, bearer, ""), "403 forbidden")
	}
	apitest.WantProblem(t, apitest.Do(h, http.MethodPost, "/api/v1/w"+other, admin, ""), "401 unauthorized")
}

// What is under way when it breaks must not look like a whole answer.
func TestABrokenStreamIsCutOff(t *testing.T) {
	t.Parallel()
	a := New(Options{Keys: secretKeys(t), Log: apitest.Quiet})
	RegisterPlain(a, Route{ID: "stream", Method: http.MethodGet, Path: "/api/v1/stream", Scope: ReadScope},
		func(w http.ResponseWriter, _ *http.Request, _ Caller) error {
			_, _ = io.WriteString(w, "the first half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
	server := httptest.NewServer(a.Handler())
	t.Cleanup(server.Close)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/api/v1/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+goodToken(t))
	r, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if text, err := io.ReadAll(r.Body); err == nil {
		t.Errorf("read %q to its end", text)
	}
}

func TestLogNamesTheCallerAndNoSecret(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	h := handlerWith(Options{Keys: secretKeys(t), Log: slog.New(slog.NewJSONHandler(&log, nil))})
	bearer := goodToken(t)
	apitest.Get(h, someRoute+"?api_key=hush", bearer)
	var line struct {
		Level, Msg, Method, Route, Tenant, Subject, Role, Remote string
		Status                                                   int64
		Ms                                                       float64
	}
	if err := json.Unmarshal(log.Bytes(), &line); err != nil {
		t.Fatalf("not one line: %v\n%s", err, &log)
	}
	if line.Level != "INFO" || line.Method != http.MethodGet || line.Route != someRoute || line.Status != 400 ||
		line.Tenant != someTenant.String() || line.Subject != "dana" || line.Role != "tenant" || line.Remote == "" || line.Ms <= 0 {
		t.Errorf("%s", &log)
	}
	for _, hidden := range []string{bearer, "hush"} {
		if strings.Contains(log.String(), hidden) {
			t.Errorf("the log tells %s", hidden)
		}
	}
}

func TestLogNamesTheTenantThatAnOperatorRead(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	a := New(Options{Keys: secretKeys(t), Log: slog.New(slog.NewTextHandler(&log, nil))})
	RegisterPlain(a, Route{ID: "look", Method: http.MethodGet, Path: "/api/v1/admin/x/{tenant_id}", Scope: ReadScope, AdminOnly: true},
		func(http.ResponseWriter, *http.Request, Caller) error { return nil })
	apitest.Get(a.Handler(), "/api/v1/admin/x/"+someTenant.String(), token(t, Claims{Subject: "olga", Role: Admin, Scopes: []string{ReadScope}}))
	if !strings.Contains(log.String(), "tenant="+someTenant.String()+" role=admin subject=olga") {
		t.Errorf("%s", &log)
	}
}

func TestLogNamesTheTenantThatWasForbidden(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	h := handlerWith(Options{Keys: secretKeys(t), Log: slog.New(slog.NewTextHandler(&log, nil))})
	other := uuid.NewString()
	apitest.WantProblem(t, apitest.Get(h, someRoute+"?tenant_id="+other, goodToken(t)), "403 forbidden")
	if !strings.Contains(log.String(), "status=403") || !strings.Contains(log.String(), "tenant="+someTenant.String()+" named="+other+" role=tenant subject=dana") {
		t.Errorf("%s", &log)
	}
}

func TestSubjectsAreLoggedPrintable(t *testing.T) {
	t.Parallel()
	if got := (Caller{Subject: " d\u202ea\nna\x00 " + strings.Repeat("x", 5000)}).Who(); got != "dana "+strings.Repeat("x", 195) {
		t.Errorf("%q", got)
	}
}

// A redirect to the path as it should be written would pass the log by.
func TestPathsHaveOneSpelling(t *testing.T) {
	t.Parallel()
	h := handler(t)
	for _, path := range []string{"//api/v1/something", "/x/../api/v1/something", "/api//v1/something", "//"} {
		r := httptest.NewRequest(http.MethodGet, "http://host.example", nil)
		r.URL.Path = path
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		apitest.WantProblem(t, w.Result(), "404 not-found")
	}
}

func TestPagesAnswerWrongMethodsWithAllow(t *testing.T) {
	t.Parallel()
	a := New(Options{Keys: secretKeys(t), Log: apitest.Quiet})
	a.Mux().HandleFunc("GET /page", func(http.ResponseWriter, *http.Request) {})
	a.Mux().HandleFunc("POST /hook", func(http.ResponseWriter, *http.Request) {})
	h := a.Handler()
	for target, allow := range map[string]string{"POST /page": "GET, HEAD", "OPTIONS /page": "GET, HEAD", "GET /hook": "POST", "PUT /openapi.json": "GET, HEAD"} {
		method, path, _ := strings.Cut(target, " ")
		r := apitest.Do(h, method, path, "", "")
		apitest.WantProblem(t, r, "405 invalid-request")
		if got := r.Header.Get("Allow"); got != allow {
			t.Errorf("%s: Allow %q, want %q", target, got, allow)
		}
	}
}

func TestMetricsAreThereFromTheStart(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	h := handlerWith(Options{Keys: secretKeys(t), Log: apitest.Quiet, Registerer: registry})
	counts, latencies := requests(t, registry)
	if latencies != 0 {
		t.Errorf("%d latencies before any request", latencies)
	}
	for _, status := range []string{"200", "400", "401", "403", "404", "405", "429", "499", "500", "503"} {
		if n, ok := counts[someRoute+" "+status]; !ok || n != 0 {
			t.Errorf("status %s: %v, there %v", status, n, ok)
		}
	}
	apitest.Get(h, someRoute, goodToken(t))
	apitest.Get(h, someRoute, "")
	apitest.Get(h, "/somewhere", "")
	counts, latencies = requests(t, registry)
	if counts[someRoute+" 200"] != 1 || counts[someRoute+" 401"] != 1 || counts["other 404"] != 1 || latencies != 2 {
		t.Errorf("%v, %d latencies", counts, latencies)
	}
}

// requests reads usage_api_requests_total as "route status": count.
func requests(t *testing.T, registry *prometheus.Registry) (counts map[string]float64, latencies uint64) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counts = map[string]float64{}
	for _, family := range families {
		for _, m := range family.Metric {
			switch family.GetName() {
			case "usage_api_requests_total":
				counts[m.Label[0].GetValue()+" "+m.Label[1].GetValue()] = m.Counter.GetValue()
			case "usage_api_latency_seconds":
				latencies = m.Histogram.GetSampleCount()
			}
		}
	}
	return counts, latencies
}

func TestNothingInAQueryIsIgnored(t *testing.T) {
	t.Parallel()
	h := queryAPI(t)
	bearer := token(t, Claims{Role: Admin, Tenant: someTenant, Scopes: []string{ReadScope, WriteScope}})
	own := "tenant_id=" + someTenant.String()
	for target, says := range map[string][]string{
		"GET " + someRoute + "?wrod=one":               {`"wrod"`, "tenant_id", "word", "fails"},
		"GET " + someRoute + "?word=one&Word=one":      {`"Word"`},
		"GET " + someRoute + "?word=one&=":             {`""`},
		"GET " + someRoute + "?word=":                  nil, // as without it
		"GET " + someRoute + "?word=one&word=one":      {"word", "2 times"},
		"GET " + someRoute + "?" + own + "&" + own:     {"tenant_id", "once"},
		"GET " + someRoute + "?" + own + "&tenantid=x": {`"tenantid"`},
		"GET " + someRoute + "?word=%zz":               {"not well-formed"},
		"GET " + someRoute + "?word=one;fails=x":       {"not well-formed"},
		"GET /api/v1/admin/x?" + own:                   {`"tenant_id"`, "has none"},
		"GET /api/v1/admin/x?%zz":                      {"not well-formed"},
		"POST /api/v1/w?dry_run=true":                  {`"dry_run"`, "tenant_id"},
		"POST /api/v1/w?" + own:                        nil,
		"GET /page?anything=1&anything=2":              nil,
	} {
		method, path, _ := strings.Cut(target, " ")
		r := apitest.Do(h, method, path, bearer, "")
		if says == nil {
			if r.StatusCode != http.StatusOK {
				t.Errorf("%s: status %d: %s", target, r.StatusCode, apitest.Body(t, r))
			}
			continue
		}
		detail := apitest.WantProblem(t, r, "400 invalid-request")
		for _, word := range says {
			if !strings.Contains(detail, word) {
				t.Errorf("%s: detail %q lacks %s", target, detail, word)
			}
		}
	}
}

// queryAPI has an operation of each sort behind it, and a page.
func queryAPI(t *testing.T) http.Handler {
	t.Helper()
	a := New(Options{Keys: secretKeys(t), Log: apitest.Quiet})
	registerSomething(a, 0)
	done := func(http.ResponseWriter, *http.Request, Caller) error { return nil }
	RegisterPlain(a, Route{ID: "write", Method: http.MethodPost, Path: "/api/v1/w", Scope: WriteScope}, done)
	RegisterPlain(a, Route{ID: "look", Method: http.MethodGet, Path: "/api/v1/admin/x", Scope: ReadScope, AdminOnly: true}, done)
	a.Mux().HandleFunc("GET /page", func(http.ResponseWriter, *http.Request) {})
	return a.Handler()
}

// What a query says is judged after who asks and how often.
func TestAQueryIsCheckedAfterAuthorization(t *testing.T) {
	t.Parallel()
	h := handler(t)
	const misspelt = someRoute + "?wrod=one"
	apitest.WantProblem(t, apitest.Get(h, misspelt, ""), "401 unauthorized")
	apitest.WantProblem(t, apitest.Get(h, misspelt, token(t, Claims{Tenant: someTenant, Scopes: []string{WriteScope}})), "403 forbidden")
	for range somePerMinute {
		apitest.WantProblem(t, apitest.Get(h, misspelt, goodToken(t)), "400 invalid-request")
	}
	apitest.WantProblem(t, apitest.Get(h, misspelt, goodToken(t)), "429 rate-limited")
}
