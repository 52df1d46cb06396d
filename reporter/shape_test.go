package reporter

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestRequestsHaveTheShapeThatStripeDocuments makes passes for 200 customers
// against stripe-mock, which checks every request by Stripe's own OpenAPI
// document. It keeps no state, so nothing is learned from its answers.
func TestRequestsHaveTheShapeThatStripeDocuments(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	mock := newShapeChecker(t)
	env.url = mock.URL
	r := env.reporter(MeterEvents)
	for i := range 200 {
		env.november(fmt.Sprint("s", i)).use("inbox", 600)
	}
	result, err := r.Pass(t.Context(), Scope{ByHand: true})
	env.must(err)
	env.expect(result, 200, 0)

	env.advance(2 * time.Hour)
	if _, err := r.Verify(t.Context(), true); err != nil {
		t.Error(err)
	}
	env.set(time.Date(2026, 12, 1, 1, 0, 0, 0, time.UTC))
	env.rollAndClose()
	if _, err := r.Pass(t.Context(), Scope{ByHand: true}); err != nil {
		t.Error(err)
	}
	mock.expectSeen(t, "GET /v1/account", "GET /v1/billing/meters", "POST /v1/billing/meter_events", "event_summaries", "GET /v1/invoices")
}

var eventName = regexp.MustCompile(`"event_name": ?"[^"]*"`)

// shapeChecker is stripe-mock, and what it was asked and did not accept.
type shapeChecker struct {
	*httptest.Server
	mu   sync.Mutex
	seen map[string]bool
}

func newShapeChecker(t *testing.T) *shapeChecker {
	t.Helper()
	c := &shapeChecker{seen: map[string]bool{}}
	mock := httputil.NewSingleHostReverseProxy(startStripeMock(t))
	mock.ModifyResponse = func(answer *http.Response) error {
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			return err
		}
		if answer.StatusCode != http.StatusOK {
			t.Errorf("%s %s is not accepted: %d %s", answer.Request.Method, answer.Request.URL, answer.StatusCode, body)
		}
		// The one meter of the fixtures stands for the one that is asked about.
		body = eventName.ReplaceAll(body, []byte(`"event_name":"inbox_overage"`))
		answer.Body, answer.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		answer.Header.Set("Content-Length", strconv.Itoa(len(body)))
		return nil
	}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		c.seen[r.Method+" "+r.URL.Path] = true
		c.mu.Unlock()
		mock.ServeHTTP(w, r)
	}))
	t.Cleanup(c.Close)
	return c
}

var listening = regexp.MustCompile(`Listening for HTTP at address: (127\.0\.0\.1:\d+)`)

// startStripeMock builds stripe-mock at the version that the module tools
// names, and runs it on a free port until the test ends.
func startStripeMock(t *testing.T) *url.URL {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "stripe-mock")
	build := exec.CommandContext(t.Context(), "go", "-C", "../tools", "build", "-o", binary, "github.com/stripe/stripe-mock")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build, err, out)
	}
	// The context of the test ends before its cleanups run: that kills the process.
	cmd := exec.CommandContext(t.Context(), binary, "-http-addr", "127.0.0.1:0", "-strict-version-check=false")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() }) // killed: its error says only that
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if found := listening.FindStringSubmatch(lines.Text()); found != nil {
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return &url.URL{Scheme: "http", Host: found[1]}
		}
	}
	t.Fatalf("stripe-mock ended without listening: %v", lines.Err())
	return nil
}

func (c *shapeChecker) expectSeen(t *testing.T, wants ...string) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, want := range wants {
		found := false
		for call := range c.seen {
			found = found || strings.Contains(call, want)
		}
		if !found {
			t.Errorf("no %s was made: %v", want, c.seen)
		}
	}
}
