package api

import (
	"net/http"
	"strings"
	"testing"

	"odometer/api/apitest"
)

func TestNothingInAQueryIsPassedOver(t *testing.T) {
	t.Parallel()
	h := queryDoor(t)
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

// queryDoor has an operation of each sort behind it, and a page.
func queryDoor(t *testing.T) http.Handler {
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
func TestAQueryIsJudgedAfterItsAsker(t *testing.T) {
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
