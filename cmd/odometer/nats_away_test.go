package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"odometer/api/apitest"
	"odometer/cmd/internal/app"
	"odometer/ingest/httpingest"
	"odometer/ingest/natstest"
	"odometer/migrations/pgtest"
)

// sender posts events over HTTP as an agent does.
type sender struct {
	*testing.T
	url, token string
}

func (s *sender) post(body string) *http.Response {
	s.Helper()
	request, err := http.NewRequestWithContext(s.Context(), http.MethodPost, s.url+httpingest.Path, strings.NewReader(body))
	if err != nil {
		s.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+s.token)
	request.Header.Set("Content-Type", "application/x-ndjson")
	client := http.Client{Timeout: 30 * time.Second}
	response, err := client.Do(request)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { response.Body.Close() })
	return response
}

// insist sends the same until it is taken, and returns where the stream holds
// the last of it.
func (s *sender) insist(body string) (seq int64) {
	s.Helper()
	waitFor(s.T, "the events are taken", func() bool {
		response := s.post(body)
		var answer httpingest.Answer
		if response.StatusCode != http.StatusAccepted {
			return false
		}
		if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || answer.Invalid > 0 {
			s.Fatalf("%+v, %v", answer, err)
		}
		for _, r := range answer.Results {
			seq = max(seq, int64(*r.StreamSeq))
		}
		return true
	})
	return seq
}

// emails are n events of the inbox, one on each line.
func emails(prefix string, n int) string {
	var lines strings.Builder
	for i := range n {
		fmt.Fprintf(&lines, `{"idempotency_key":"%s-%d","agent":"inbox","action_type":"email_processed"}`+"\n", prefix, i)
	}
	return lines.String()
}

// startAll runs every service, and says where it answers.
func startAll(t *testing.T, database string, server *natstest.Server) (url, ops string) {
	t.Helper()
	url, ops = app.FreeAddress("127.0.0.1:0"), app.FreeAddress("127.0.0.1:0")
	cmd := program(t, []string{"ODOMETER_DATABASE_URL=" + database, "ODOMETER_NATS_URL=" + server.URL(), "ODOMETER_JWT_SECRET=" + string(apitest.Secret)},
		"run", "--http-addr", url, "--ops-addr", ops)
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return "http://" + url, "http://" + ops
}

func readThrough(t *testing.T, pool *pgxpool.Pool) (seq int64) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), `select coalesce(min(seq), 0) from stream_positions`).Scan(&seq); err != nil {
		t.Fatal(err)
	}
	return seq
}

// NATS goes away under agents that send over HTTP, and comes back: they are
// asked to retry, and what they retry is counted once.
func TestEventsSentDuringNATSOutageAreCountedOnce(t *testing.T) {
	t.Parallel()
	database, server := pgtest.URL(t), natstest.Run(t)
	must(t, "catalogue", "apply", "--database-url", database)
	tenant := subscribeMany(t, database, 1)[0]
	url, ops := startAll(t, database, server)
	ready := func() bool { return status(ops+"/readyz", "") == http.StatusOK }
	waitFor(t, "ready", ready)
	token := must(t, "token", "--tenant", tenant.String(), "--scope", "usage:write", "--jwt-secret", string(apitest.Secret))
	s := &sender{t, url, strings.TrimSpace(token)}
	s.insist(emails("before", 5))

	server.Stop()
	waitFor(t, "it has noticed", func() bool { return !ready() })
	for range 2 {
		begin := time.Now()
		response := s.post(emails("away", 20))
		apitest.WantProblem(t, response, "503 unavailable")
		if took := time.Since(begin); took > 8*time.Second || response.Header.Get("Retry-After") == "" {
			t.Errorf("after %s, Retry-After %q", took, response.Header.Get("Retry-After"))
		}
	}
	server.Start()
	s.insist(emails("away", 20))
	last := s.insist(emails("after", 5))

	pool := openPool(t, database)
	waitFor(t, "all is read", func() bool { return readThrough(t, pool) >= last })
	if n := counted(t, pool, tenant); n != 30 {
		t.Errorf("counted %d, want 30", n)
	}
	must(t, "audit", "--database-url", database, "--nats-url", server.URL())
	waitFor(t, "ready again", ready)
}
