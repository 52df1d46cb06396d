// Package apitest calls the API as a client does, for tests of packages that
// register operations. WantProblem checks what holds for every problem document.
package apitest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// Secret signs the tests' tokens.
var Secret = []byte("0123456789abcdef0123456789abcdef")

// Quiet discards what is logged.
var Quiet = slog.New(slog.DiscardHandler)

// Get sends a GET to the handler; header is pairs of name and value.
func Get(h http.Handler, target, bearer string, header ...string) *http.Response {
	return Do(h, http.MethodGet, target, bearer, "", header...)
}

// Do is Get for any method, with a body.
func Do(h http.Handler, method, target, bearer, body string, header ...string) *http.Response {
	r := httptest.NewRequestWithContext(context.Background(), method, target, strings.NewReader(body))
	if bearer != "" {
		r.Header.Set("Authorization", "Bearer "+bearer)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

// Body is what was answered.
func Body(t testing.TB, r *http.Response) string {
	t.Helper()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Decode reads an answer of status 200.
func Decode[T any](t testing.TB, r *http.Response) (answer T) {
	t.Helper()
	text := Body(t, r)
	if r.StatusCode != http.StatusOK {
		t.Fatalf("status %d: %s", r.StatusCode, text)
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return answer
}

// WantProblem checks that an answer is the problem document that is asked for
// as status and name ("404 not-found"), and returns its detail.
func WantProblem(t testing.TB, r *http.Response, want string) string {
	t.Helper()
	text := Body(t, r)
	var doc struct {
		Type, Title, Detail, Instance string
		Status                        int
	}
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatalf("status %d is no problem document: %v\n%s", r.StatusCode, err, text)
	}
	got := fmt.Sprintf("%d %s", r.StatusCode, strings.TrimPrefix(doc.Type, "/problems/"))
	if got != want || doc.Status != r.StatusCode || !strings.HasPrefix(doc.Type, "/problems/") {
		t.Fatalf("got %s, want %s:\n%s", got, want, text)
	}
	if got := r.Header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("Content-Type %q", got)
	}
	if doc.Title == "" || doc.Detail == "" || doc.Instance == "" {
		t.Errorf("no title, detail or instance: %s", text)
	}
	wait := r.StatusCode == http.StatusServiceUnavailable || r.StatusCode == http.StatusTooManyRequests
	if wait && r.Header.Get("Retry-After") == "" {
		t.Errorf("%s without Retry-After", got)
	}
	return doc.Detail
}
