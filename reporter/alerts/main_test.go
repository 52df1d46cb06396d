package alerts

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer/migrations/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// testEnv is a database with a catalogue, a clock and a Slack.
type testEnv struct {
	*testing.T
	pool  *pgxpool.Pool
	now   time.Time
	slack *slack
	*Alerts
}

const catalogueSQL = `
insert into catalogue (currency, applied_at) values ('usd', now());
insert into agents (agent, position, noun, limit_key, unit_price, meter, lookup_key) values
    ('inbox', 1, 'email', 'emails', 0.02, 'inbox_overage', 'inbox_overage'),
    ('invoice', 2, 'invoice', 'invoices', 0.10, 'invoice_overage', 'invoice_overage'),
    ('meeting', 3, 'meeting', 'meetings', 0.15, 'meeting_overage', 'meeting_overage');
insert into plans (plan_id, position, name, price) values ('pro', 1, 'Pro', 10), ('max', 2, 'Max', 20);
insert into allowances (plan_id, agent, "limit") values
    ('pro', 'inbox', 500), ('pro', 'invoice', 50), ('max', 'inbox', null), ('max', 'invoice', 100);`

func newEnv(t *testing.T) *testEnv {
	t.Helper()
	e := &testEnv{T: t, pool: pgtest.New(t), now: time.Now().Truncate(time.Second), slack: newSlack(t)}
	e.do(catalogueSQL)
	alerts, err := New(Options{
		Pool: e.pool, Now: func() time.Time { return e.now },
		SlackURL: e.slack.URL + "/services/T0/B0/verysecret", HTTP: &http.Client{Timeout: 300 * time.Millisecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	e.Alerts = alerts
	return e
}

func (e *testEnv) do(sql string, args ...any) {
	e.Helper()
	if _, err := e.pool.Exec(e.Context(), sql, args...); err != nil {
		e.Fatalf("%s: %v", sql, err)
	}
}

func (e *testEnv) ask(sql string, args ...any) (n int64) {
	e.Helper()
	if err := e.pool.QueryRow(e.Context(), sql, args...).Scan(&n); err != nil {
		e.Fatalf("%s: %v", sql, err)
	}
	return n
}

// tenant adds one on the plan, with a running period.
func (e *testEnv) tenant(plan string) uuid.UUID {
	e.Helper()
	id, start := uuid.New(), e.now.AddDate(0, 0, -10)
	e.do(`insert into subscriptions (tenant_id, plan_id, status, period_interval, anchor) values ($1, nullif($2, ''), 'active', 'month', $3)`, id, plan, start)
	e.do(`insert into billing_periods (tenant_id, period_start, period_end, plan_id) values ($1, $2, $3, nullif($4, ''))`, id, start, e.now.AddDate(0, 0, 20), plan)
	return id
}

// count sets a counter of the tenant's only period.
func (e *testEnv) count(tenant uuid.UUID, agent string, n int64) {
	e.Helper()
	e.do(`insert into usage_counters as c (tenant_id, agent, period_start, period_end, count)
		select tenant_id, $2, period_start, period_end, $3 from billing_periods where tenant_id = $1
		on conflict (tenant_id, agent, period_start) do update set count = excluded.count`, tenant, agent, n)
}

func (e *testEnv) evaluate() EvaluateResult {
	e.Helper()
	result, err := e.Evaluate(e.Context())
	if err != nil {
		e.Fatal(err)
	}
	return result
}

// recorded lists a tenant's alerts.
func (e *testEnv) recorded(tenant uuid.UUID) []string {
	e.Helper()
	rows, _ := e.pool.Query(e.Context(), `select agent || ' ' || threshold || '/' || "limit" || ' ' || level || ' ' || count
		from usage_alerts where tenant_id = $1 order by agent, "limit", threshold`, tenant)
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		e.Fatal(err)
	}
	return all
}

func (e *testEnv) mustHave(what string, tenant uuid.UUID, want ...string) {
	e.Helper()
	if got := e.recorded(tenant); !slices.Equal(got, want) {
		e.Errorf("%s: recorded %q, want %q", what, got, want)
	}
}

// open lists the open findings' kinds and subjects.
func (e *testEnv) open() []string {
	e.Helper()
	rows, _ := e.pool.Query(e.Context(), `select kind || ' ' || subject from audit_findings where resolved_at is null order by 1`)
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		e.Fatal(err)
	}
	return all
}

func (e *testEnv) mustBeOpen(what string, want ...string) {
	e.Helper()
	e.evaluate()
	if got := e.open(); !slices.Equal(got, want) {
		e.Errorf("%s: open are %q, want %q", what, got, want)
	}
}

// slack is a webhook whose answers a test sets.
type slack struct {
	*httptest.Server
	mu     sync.Mutex
	texts  []string
	answer http.HandlerFunc // nil: accepts the message
	calls  chan struct{}
}

func newSlack(t *testing.T) *slack {
	s := &slack{calls: make(chan struct{}, 100)}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *slack) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body struct{ Text string }
	_ = json.NewDecoder(r.Body).Decode(&body)
	s.mu.Lock()
	s.texts = append(s.texts, body.Text)
	answer := s.answer
	s.mu.Unlock()
	r.Header.Set("text", strings.ReplaceAll(body.Text, "\n", " "))
	s.calls <- struct{}{}
	if answer != nil {
		answer(w, r)
	}
}

// await waits for the next message.
func (s *slack) await(t *testing.T) {
	t.Helper()
	select {
	case <-s.calls:
	case <-time.After(30 * time.Second):
		t.Fatal("no message to Slack")
	}
}

// answers changes how Slack answers, and forgets what it received.
func (s *slack) answers(how http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer, s.texts = how, nil
}

func (s *slack) received() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.texts)
}
