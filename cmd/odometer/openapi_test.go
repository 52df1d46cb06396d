package main

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"

	"odometer/api"
	"odometer/api/apitest"
	"odometer/cmd/internal/app"
	"odometer/cmd/internal/cli"
)

// theDemo is a demo that runs as a process of its own: a database with customers,
// dead letters, a ledger and an audit.
type theDemo struct {
	url, postgres, nats string
}

var demoPlace = regexp.MustCompile(`^(dashboard|NATS|Postgres) +(\S+)$`)

// runDemo starts a demo and waits until it has said where everything is.
func runDemo(t *testing.T, args ...string) *theDemo {
	t.Helper()
	cmd := program(t, nil, append([]string{"demo", "--addr", app.FreeAddress("127.0.0.1:0")}, args...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	})
	d := &theDemo{}
	lines := bufio.NewScanner(out)
	for d.url == "" || d.nats == "" || d.postgres == "" {
		if !lines.Scan() {
			t.Fatal("the demo ended before it said where it is")
		}
		if place := demoPlace.FindStringSubmatch(lines.Text()); place != nil {
			*map[string]*string{"dashboard": &d.url, "NATS": &d.nats, "Postgres": &d.postgres}[place[1]] = place[2]
		}
	}
	go func() {
		for lines.Scan() { // it must not wait for its reader
		}
	}()
	return d
}

// leaping is a clock by which a minute passes between any two looks, so that
// no limit is ever reached.
type leaping struct {
	mu sync.Mutex
	at time.Time
}

func (l *leaping) now() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at = l.at.Add(time.Minute)
	return l.at
}

// handler is the whole API over the demo's database, without limits.
func (d *theDemo) handler(t *testing.T) http.Handler {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), d.postgres)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	d.waitForBooks(t, pool)
	if _, err := pool.Exec(t.Context(), `insert into audit_findings (kind, subject, detail, found_by) values ('test', 'x', 'a finding', 'test')`); err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(d.nats)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	keys, err := api.KeysFromSecret(apitest.Secret, api.Expect{})
	if err != nil {
		t.Fatal(err)
	}
	s := app.Services{Terminal: cli.NewTerminal(t.Output(), t.Output(), "text", "warn"), Pool: pool, ReadPool: pool, NATS: nc, Query: true, Ingest: true}
	server := api.New(api.Options{Keys: keys, Log: s.Terminal.Log, Now: (&leaping{at: time.Now()}).now})
	if err := s.Register(server); err != nil {
		t.Fatal(err)
	}
	return server.Handler()
}

// document reads the API's description and has it judged against the schema of
// OpenAPI 3.1.
func document(t *testing.T, h http.Handler) (libopenapi.Document, validator.Validator) {
	t.Helper()
	r := apitest.Get(h, "/openapi.json", "")
	text := apitest.Body(t, r)
	if r.StatusCode != http.StatusOK || !strings.Contains(text, `"openapi":"3.1`) {
		t.Fatalf("status %d: %.200s", r.StatusCode, text)
	}
	doc, err := libopenapi.NewDocument([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	judge, errs := validator.NewValidator(doc)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	if ok, faults := judge.ValidateDocument(); !ok {
		for _, f := range faults {
			t.Errorf("%s: %s", f.Message, f.Reason)
			for _, s := range f.SchemaValidationErrors {
				t.Errorf("  %s: %s", s.FieldPath, s.Reason)
			}
		}
	}
	return doc, judge
}

// A client that is built from the document, with values of every kind and
// many that do not fit, is never answered with a 500, nor with anything that
// the document does not describe.
func TestResponsesMatchOpenAPI(t *testing.T) {
	t.Parallel()
	demo := runDemo(t, "--rate", "400")
	h := demo.handler(t)
	doc, judge := document(t, h)
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	f := newFuzz(t, doc, judge, server)
	f.run()
}

const fullBooksSQL = `
select
    exists (select from audits)
    and exists (select from overage_reports where state = 'accepted')
    and exists (select from period_totals)
    and exists (select from dead_letters)
    and (select count(*) > 0 and count(*) = count(complete_until) from stream_positions)`

// waitForBooks waits until there is something of everything to read.
func (d *theDemo) waitForBooks(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	waitFor(t, "an audit", func() bool {
		var full bool
		return pool.QueryRow(t.Context(), fullBooksSQL).Scan(&full) == nil && full
	})
}
