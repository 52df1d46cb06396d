package examples_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// relay lies between an agent and the HTTP API. It records what is sent, and can
// drop it, or the API's answers, so that the agent can be killed just there.
type relay struct {
	url    string
	passed chan string // the body that it dropped, or whose answer
	waits  chan string // the Retry-After of each 503

	mu     sync.Mutex
	drops  drops
	bodies []string
}

func newRelay(t *testing.T, api string) *relay {
	t.Helper()
	upstream, err := url.Parse(api)
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{passed: make(chan string, 1000), waits: make(chan string, 1000)}
	proxy := httputil.NewSingleHostReverseProxy(upstream)
	proxy.ModifyResponse = func(response *http.Response) error {
		if response.StatusCode == http.StatusServiceUnavailable {
			r.waits <- response.Header.Get("Retry-After")
		}
		if r.now() == answers {
			r.passed <- ""
			<-response.Request.Context().Done()
			return errors.New("the agent was killed")
		}
		return nil
	}
	proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) {} // the agent is gone
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		body, err := io.ReadAll(request.Body)
		if err != nil {
			return
		}
		r.record(string(body))
		if r.now() == publications {
			r.passed <- string(body)
			<-request.Context().Done()
			return
		}
		request.Body = io.NopCloser(bytes.NewReader(body))
		proxy.ServeHTTP(w, request)
	}))
	t.Cleanup(server.Close)
	r.url = server.URL
	return r
}

func (r *relay) now() drops {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.drops
}

func (r *relay) drop(what drops) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drops = what
}

func (r *relay) record(body string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bodies = append(r.bodies, body)
}

func (r *relay) sent() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.bodies)
}

const jwtSecret = "a secret of this test, and of nothing else"

// shell is the curl example, and an Odometer that accepts events over HTTP.
type shell struct {
	env   *testEnv
	relay *relay
	dir   string
	token string
}

func newShell(t *testing.T, binary string) *shell {
	t.Helper()
	e := newTestEnv(t, binary)
	secret := []string{"ODOMETER_JWT_SECRET=" + jwtSecret}
	service := e.runServices(t, append(secret, "ODOMETER_HTTP_ADDR=127.0.0.1:0"), "aggregator", "ingest")
	listens := service.waitForLine("the API listens")
	address := regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(listens)
	return &shell{
		env: e, relay: newRelay(t, "http://"+address), dir: copyOf(t, "curl"),
		token: e.token(t, "usage:write"),
	}
}

func (e *testEnv) token(t *testing.T, scope string) string {
	t.Helper()
	return strings.TrimSpace(e.runCommand(t, "token", "--jwt-secret", jwtSecret, "--tenant", e.tenant.String(), "--scope", scope))
}

// files are mails whose names can be those of files.
var files = []string{"mail-1", "mail-2", "mail-3"}

func (s *shell) start(t *testing.T, actSeconds string, mails ...string) *process {
	t.Helper()
	env := []string{"ODOMETER_URL=" + s.relay.url, "TOKEN=" + s.token, "ACT_SECONDS=" + actSeconds}
	return start(t, s.dir, env, append([]string{"bash", "agent.sh"}, mails...)...)
}

// killEverywhere kills the agent at each dangerous place, and returns what it
// had stored before its first act.
func (s *shell) killEverywhere(t *testing.T) (stored string) {
	p := s.start(t, "3600", files...)
	p.waitForLine("begun email:mail-1")
	p.kill()
	event, err := os.ReadFile(filepath.Join(s.dir, "journal", "begun", "mail-1"))
	if err != nil {
		t.Fatal(err)
	}
	if n := s.env.Messages(); n != 0 {
		t.Errorf("%d messages before anything was done", n)
	}

	s.relay.drop(publications)
	p = s.start(t, "0", files...)
	p.waitForLine("acted email:mail-1")
	next(t, s.relay.passed, "a request")
	p.kill()

	s.relay.drop(answers)
	p = s.start(t, "3600", files...) // the first act is done, and is not done again
	next(t, s.relay.passed, "a request")
	if n := s.env.Messages(); n != 1 {
		t.Errorf("%d messages when the API has answered, want 1", n)
	}
	p.kill()
	s.relay.drop(nothing)
	return string(event)
}

// runToEnd lets the agent meet a full stream, finish, and be run once more.
func (s *shell) runToEnd(t *testing.T, stored string) {
	s.env.setFull(t, true)
	p := s.start(t, "0", files...)
	if wait := next(t, s.relay.waits, "an answer of 503"); wait == "" {
		t.Error("503 without Retry-After")
	}
	s.env.setFull(t, false)
	if out, code := p.waitForEnd(); code != 0 {
		t.Errorf("exit code %d, printed %s", code, out)
	}
	before := len(s.relay.sent())
	out, code := s.start(t, "0", files...).waitForEnd()
	if after := len(s.relay.sent()); code != 0 || after != before {
		t.Errorf("run again: exit code %d, %d more requests, printed %s", code, after-before, out)
	}
	for _, body := range s.relay.sent()[:3] {
		if body != stored {
			t.Errorf("sent  %s\nstored before the act was %s", body, stored)
		}
	}
}

// meetRejections gives it a token without the scope to write, and an event that
// is not valid.
func (s *shell) meetRejections(t *testing.T) {
	token := s.token
	s.token = s.env.token(t, "usage:read")
	p := s.start(t, "0", "mail-4")
	p.waitForLine("email:mail-4 is not stored yet: status 403")
	if _, code := p.waitForEnd(); code == 0 {
		t.Error("exit code 0 although an event is not stored")
	}
	s.token = token

	bad := `{"agent":"inbox","action_type":"email_processed","idempotency_key":"email:bad","quantity":-1}`
	if err := os.WriteFile(filepath.Join(s.dir, "journal", "acted", "bad"), []byte(bad), 0o644); err != nil {
		t.Fatal(err)
	}
	p = s.start(t, "0")
	p.waitForLine("quantity is -1; allowed: a whole number")
	p.waitForLine("published email:mail-4")
	if _, code := p.waitForEnd(); code == 0 {
		t.Error("exit code 0 although an event is refused")
	}
	if kept, err := os.ReadFile(filepath.Join(s.dir, "journal", "refused", "bad")); err != nil || string(kept) != bad {
		t.Errorf("kept %q, %v", kept, err)
	}
	if out, code := s.start(t, "0").waitForEnd(); code != 0 || len(out) > 0 {
		t.Errorf("run again: exit code %d, printed %s", code, out)
	}
}
