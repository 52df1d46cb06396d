package api

import (
	"net/http"
	"testing"

	"odometer/api/apitest"
)

func TestOnlyListedOriginsMayReadAnswers(t *testing.T) {
	t.Parallel()
	h := handlerWith(Options{Keys: secretKeys(t), Log: apitest.Quiet, Origins: []string{"https://app.example"}})
	allowed := func(origin, path string) string {
		return apitest.Get(h, path, goodToken(t), "Origin", origin).Header.Get("Access-Control-Allow-Origin")
	}
	if got := allowed("https://app.example", someRoute); got != "https://app.example" {
		t.Errorf("the listed origin: %q", got)
	}
	for _, origin := range []string{"https://app.example.evil", "http://app.example", "https://app.example:8443", "null", "*"} {
		if got := allowed(origin, someRoute); got != "" {
			t.Errorf("origin %s: %q", origin, got)
		}
	}
	// A page that may show usage may not operate.
	if got := allowed("https://app.example", "/api/v1/admin/tenants"); got != "" {
		t.Errorf("operators' routes: %q", got)
	}
}

func TestPreflightNeedsNoToken(t *testing.T) {
	t.Parallel()
	h := handlerWith(Options{Keys: secretKeys(t), Log: apitest.Quiet, Origins: []string{"https://app.example"}})
	ask := func(origin string) *http.Response {
		return apitest.Do(h, http.MethodOptions, someRoute, "", "", "Origin", origin,
			"Access-Control-Request-Method", "GET", "Access-Control-Request-Headers", "authorization,if-none-match")
	}
	r := ask("https://app.example")
	if r.StatusCode != http.StatusNoContent || r.Header.Get("Access-Control-Allow-Headers") != "Authorization, If-None-Match" ||
		r.Header.Get("Access-Control-Allow-Methods") != "GET, HEAD" || r.Header.Get("Vary") != "Origin" {
		t.Errorf("status %d: %v", r.StatusCode, r.Header)
	}
	if r := ask("https://other.example"); r.StatusCode != http.StatusMethodNotAllowed || r.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("another origin: status %d: %v", r.StatusCode, r.Header)
	}
}

func TestOriginsAreSchemeAndHost(t *testing.T) {
	t.Parallel()
	for origin, good := range map[string]bool{
		"https://app.example": true, "http://localhost:3000": true,
		"*": false, "app.example": false, "https://app.example/": false, "https://app.example/path": false, "ftp://app.example": false, "": false,
		"https://App.example": false, "https://app.example:443": false, "https://app.example:8443": true, "https://app.example:": false,
		"https://*.example": false, "https://bücher.example": false, "https://xn--bcher-kva.example": true, "https://app.example:99999": false,
	} {
		if err := CheckOrigin(origin); (err == nil) != good {
			t.Errorf("%q: %v", origin, err)
		}
	}
}
