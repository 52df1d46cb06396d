package web

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// service is the pages as a service has them, outside the demo.
func service() http.Handler {
	mux := http.NewServeMux()
	Register(mux, Options{Addr: "127.0.0.1:8080"})
	return mux
}

// get asks the handler; header is pairs of name and value.
func get(h http.Handler, target string, header ...string) *http.Response {
	r := httptest.NewRequest(http.MethodGet, target, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, r *http.Response) []byte {
	t.Helper()
	content, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// paths are all that a service serves without a token, with their types.
var paths = map[string]string{
	"/":                                 "text/html; charset=utf-8",
	"/docs":                             "text/html; charset=utf-8",
	"/assets/dashboard.js":              "text/javascript; charset=utf-8",
	"/assets/dashboard.css":             "text/css; charset=utf-8",
	"/odometer-usage.js":                "text/javascript; charset=utf-8",
	"/odometer-chart.js":                "text/javascript; charset=utf-8",
	"/docs/assets/docs.js":              "text/javascript; charset=utf-8",
	"/docs/assets/docs.css":             "text/css; charset=utf-8",
	"/docs/assets/swagger-ui.css":       "text/css; charset=utf-8",
	"/docs/assets/swagger-ui-bundle.js": "text/javascript; charset=utf-8",
	"/docs/assets/favicon.png":          "image/png",
}

func TestEveryFileIsServedAsWhatItIs(t *testing.T) {
	t.Parallel()
	h := service()
	for path, kind := range paths {
		r := get(h, path)
		if r.StatusCode != http.StatusOK || len(body(t, r)) == 0 {
			t.Errorf("%s: status %d", path, r.StatusCode)
		}
		for name, want := range map[string]string{
			"Content-Type":           kind,
			"X-Content-Type-Options": "nosniff",
			"Referrer-Policy":        "no-referrer",
			"Vary":                   "Accept-Encoding",
		} {
			if got := r.Header.Get(name); got != want {
				t.Errorf("%s: %s %q, want %q", path, name, got, want)
			}
		}
	}
}

func TestPagesRunNoInlineScriptAndLoadNothingFromOtherHosts(t *testing.T) {
	t.Parallel()
	h := service()
	for _, path := range []string{"/", "/docs"} {
		r := get(h, path)
		policy := r.Header.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'self'", "object-src 'none'", "base-uri 'none'", "form-action 'self'", "frame-ancestors 'none'"} {
			if !strings.Contains(policy, want) {
				t.Errorf("%s: %s is not in the policy %q", path, want, policy)
			}
		}
		if strings.Contains(policy, "script-src") || strings.Contains(policy, "unsafe-eval") || strings.Contains(policy, "http") {
			t.Errorf("%s: the policy opens more than its own host: %q", path, policy)
		}
		page := string(body(t, r))
		for _, bad := range []string{"<script>", "<style", " style=", " onclick=", "http://", "https://"} {
			if strings.Contains(page, bad) {
				t.Errorf("%s: the page has %q", path, bad)
			}
		}
	}
	if policy := get(h, "/").Header.Get("Content-Security-Policy"); strings.Contains(policy, "unsafe") || !strings.Contains(policy, "require-trusted-types-for 'script'") {
		t.Errorf("the dashboard's policy: %q", policy)
	}
}

func TestOnlyEmbeddedScriptsAreForOtherOrigins(t *testing.T) {
	t.Parallel()
	h := service()
	for path := range paths {
		r := get(h, path, "Origin", "https://customer.example")
		allowed, shared, cached := "", "same-origin", "no-cache"
		if strings.HasPrefix(path, "/odometer-") {
			allowed, shared, cached = "*", "cross-origin", "public, max-age=300"
		}
		for name, want := range map[string]string{
			"Access-Control-Allow-Origin":  allowed,
			"Cross-Origin-Resource-Policy": shared,
			"Cache-Control":                cached,
		} {
			if got := r.Header.Get(name); got != want {
				t.Errorf("%s: %s %q, want %q", path, name, got, want)
			}
		}
	}
}

func TestWhoHasAFileGets304(t *testing.T) {
	t.Parallel()
	h := service()
	for path := range paths {
		for _, coding := range []string{"", "gzip"} {
			tag := get(h, path, "Accept-Encoding", coding).Header.Get("ETag")
			if tag == "" {
				t.Errorf("%s has no ETag", path)
			}
			r := get(h, path, "Accept-Encoding", coding, "If-None-Match", `"other", W/`+tag)
			if r.StatusCode != http.StatusNotModified || len(body(t, r)) != 0 || r.Header.Get("ETag") != tag {
				t.Errorf("%s, coding %q: status %d with ETag %q, want 304 with %q", path, coding, r.StatusCode, r.Header.Get("ETag"), tag)
			}
			if r := get(h, path, "Accept-Encoding", coding, "If-None-Match", `"other"`); r.StatusCode != http.StatusOK {
				t.Errorf("%s, coding %q, another tag: status %d", path, coding, r.StatusCode)
			}
		}
	}
}

func TestCompressedAndPlainAreTheSameFileByDifferentTags(t *testing.T) {
	t.Parallel()
	h := service()
	for path := range paths {
		plain, packed := get(h, path), get(h, path, "Accept-Encoding", "br, gzip")
		want := body(t, plain)
		if packed.Header.Get("Content-Encoding") == "" {
			if len(want) > 1000 {
				t.Errorf("%s: %d bytes are not compressed", path, len(want))
			}
			continue
		}
		if plain.Header.Get("ETag") == packed.Header.Get("ETag") {
			t.Errorf("%s: one tag for different bytes", path)
		}
		z, err := gzip.NewReader(packed.Body)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		got, err := io.ReadAll(z)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: compressed and plain differ (%v)", path, err)
		}
	}
}

func TestAcceptEncodingIsReadAsTheRFCSays(t *testing.T) {
	t.Parallel()
	tests := map[string]bool{
		"":                      false,
		"identity":              false,
		"gzip":                  true,
		"GZip":                  true,
		"x-gzip":                true,
		"br, gzip;q=0.1":        true,
		"gzip;q=0":              false,
		"gzip; Q=0.000":         false,
		"*":                     true,
		"*;q=0":                 false,
		"*, gzip;q=0":           false,
		"gzip;q=0, *":           false,
		"*;q=0, gzip":           true,
		"gzipped":               false,
		"deflate,br;q=1.0":      false,
		"gzip;q=nonsense":       true,
		",,":                    false,
		"br;q=0.9 , gzip ; q=1": true,
	}
	for line, want := range tests {
		if got := acceptsGzip([]string{line}); got != want {
			t.Errorf("Accept-Encoding %q: gzip %v, want %v", line, got, want)
		}
	}
	if !acceptsGzip([]string{"br", "gzip"}) {
		t.Error("two lines of the header are not one list")
	}
}

func TestNothingElseIsServed(t *testing.T) {
	t.Parallel()
	h := service()
	for _, path := range []string{"/index.html", "/assets/", "/assets/../web.go", "/docs/", "/docs/assets/", "/demo/sessions", "/odometer-usage", "/src/widget/usage.ts"} {
		if r := get(h, path); r.StatusCode != http.StatusNotFound && r.StatusCode != http.StatusTemporaryRedirect {
			t.Errorf("%s: status %d", path, r.StatusCode)
		}
	}
}
