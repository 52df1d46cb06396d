package web

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
)

var acme = uuid.MustParse("7b0c4d1e-8f7a-4b6e-9d4e-111111111111")

// demo is the pages as the demo has them.
func demo(addr string, mint func(context.Context) ([]Session, error)) http.Handler {
	mux := http.NewServeMux()
	Register(mux, Options{Addr: addr, Sessions: mint, Log: slog.New(slog.DiscardHandler)})
	return mux
}

func minted(context.Context) ([]Session, error) {
	return []Session{{"Acme", "tenant", &acme, "t1"}, {"Operator", "admin", nil, "t2"}}, nil
}

// sessionsBy asks for the demo's tokens by a host, from this machine.
func sessionsBy(h http.Handler, host string) *http.Response {
	return sessionsFrom(h, host, "127.0.0.1:54321")
}

func sessionsFrom(h http.Handler, host, peer string) *http.Response {
	r := httptest.NewRequest(http.MethodGet, sessionsPath, nil)
	r.Host, r.RemoteAddr = host, peer
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func TestDemoHandsOutItsTokens(t *testing.T) {
	t.Parallel()
	r := sessionsBy(demo("127.0.0.1:8080", minted), "127.0.0.1:8080")
	want := `{"sessions":[{"name":"Acme","role":"tenant","tenant_id":"` + acme.String() + `","token":"t1"},` +
		`{"name":"Operator","role":"admin","tenant_id":null,"token":"t2"}]}` + "\n"
	if diff := cmp.Diff(want, string(body(t, r))); diff != "" {
		t.Error(diff)
	}
	for name, want := range map[string]string{
		"Content-Type":                 "application/json",
		"Cache-Control":                "no-store",
		"X-Content-Type-Options":       "nosniff",
		"Cross-Origin-Resource-Policy": "same-origin",
		"Access-Control-Allow-Origin":  "",
	} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s %q, want %q", name, got, want)
		}
	}
}

func TestTokensAreOnlyForNamesThatMeanThisMachine(t *testing.T) {
	t.Parallel()
	h := demo("192.0.2.7:8080", minted)
	for _, host := range []string{
		"localhost", "localhost:8080", "LocalHost:9", "localhost.:8080", "app.localhost:8080",
		"127.0.0.1", "127.0.0.1:8080", "127.9.9.9:1", "[::1]:8080", "[::1]", "192.0.2.7:8080", "192.0.2.7",
	} {
		if r := sessionsBy(h, host); r.StatusCode != http.StatusOK {
			t.Errorf("Host %q: status %d", host, r.StatusCode)
		}
	}
	for _, host := range []string{
		"", "evil.example", "evil.example:8080", "localhost.evil.example", "notlocalhost", "127.0.0.1.evil.example:8080",
		"192.0.2.8:8080", "0.0.0.0:8080", "[fe80::1]:8080", "127.0.0.1@evil.example", "localhost:8080.evil.example",
	} {
		r := sessionsBy(h, host)
		text := body(t, r)
		if r.StatusCode != http.StatusForbidden || strings.Contains(string(text), "t1") {
			t.Errorf("Host %q: status %d: %s", host, r.StatusCode, text)
		}
		var problem struct {
			Type, Detail string
			Status       int
		}
		if err := json.Unmarshal(text, &problem); err != nil || problem.Type != "/problems/forbidden" || problem.Status != http.StatusForbidden {
			t.Errorf("Host %q is refused without a problem document: %s", host, text)
		}
	}
}

// A peer on the network writes into Host what it likes.
func TestTokensAreOnlyForPeersOnThisMachine(t *testing.T) {
	t.Parallel()
	h := demo("0.0.0.0:8080", minted)
	for peer, want := range map[string]int{"127.0.0.1:1": http.StatusOK, "[::1]:1": http.StatusOK, "192.0.2.9:1": http.StatusForbidden, "[fe80::1]:1": http.StatusForbidden} {
		if r := sessionsFrom(h, "localhost:8080", peer); r.StatusCode != want {
			t.Errorf("peer %s: status %d, want %d", peer, r.StatusCode, want)
		}
	}
}

func TestTokensThatCannotBeMintedAreAProblem(t *testing.T) {
	t.Parallel()
	h := demo("127.0.0.1:8080", func(context.Context) ([]Session, error) { return nil, errors.New("secret inside") })
	r := sessionsBy(h, "localhost")
	text := string(body(t, r))
	if r.StatusCode != http.StatusServiceUnavailable || r.Header.Get("Retry-After") == "" || strings.Contains(text, "secret inside") {
		t.Errorf("status %d: %s", r.StatusCode, text)
	}
}

func TestOnlyTheDemosDashboardKnowsOfTokens(t *testing.T) {
	t.Parallel()
	const meta = `<meta name="odometer-sessions" content="/demo/sessions">`
	if page := string(body(t, get(demo("127.0.0.1:8080", minted), "/"))); strings.Count(page, meta) != 1 {
		t.Errorf("the demo's page does not say where its tokens are:\n%s", page)
	}
	if page := string(body(t, get(service(), "/"))); strings.Contains(page, "odometer-sessions") {
		t.Errorf("a service's page speaks of the demo's tokens:\n%s", page)
	}
	if r := sessionsBy(service(), "localhost"); r.StatusCode != http.StatusNotFound {
		t.Errorf("a service answers for the demo's tokens: status %d", r.StatusCode)
	}
}
