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

// house is a database with a catalogue, a clock and a Slack.
type house struct {
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

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{T: t, pool: pgtest.New(t), now: time.Now().Truncate(time.Second), slack: newSlack(t)}
	h.do(catalogueSQL)
	h.Alerts = New(Options{Pool: h.pool, Now: func() time.Time { return h.now }, SlackURL: h.slack.URL + "/services/T0/B0/verysecret", HTTP: &http.Client{Timeout: 300 * time.Millisecond}})
	return h
}

func (h *house) do(sql string, args ...any) {
	h.Helper()
	if _, err := h.pool.Exec(h.Context(), sql, args...); err != nil {
		h.Fatalf("%s: %v", sql, err)
	}
}

func (h *house) ask(sql string, args ...any) (n int64) {
	h.Helper()
	if err := h.pool.QueryRow(h.Context(), sql, args...).Scan(&n); err != nil {
		h.Fatalf("%s: %v", sql, err)
	}
	return n
}

// tenant is a new one on the plan, in a period that runs.
func (h *house) tenant(plan string) uuid.UUID {
	h.Helper()
	id, start := uuid.New(), h.now.AddDate(0, 0, -10)
	h.do(`insert into subscriptions (tenant_id, plan_id, status, period_interval, anchor) values ($1, nullif($2, ''), 'active', 'month', $3)`, id, plan, start)
	h.do(`insert into billing_periods (tenant_id, period_start, period_end, plan_id) values ($1, $2, $3, nullif($4, ''))`, id, start, h.now.AddDate(0, 0, 20), plan)
	return id
}

// count sets a counter of the tenant's only period.
func (h *house) count(tenant uuid.UUID, agent string, n int64) {
	h.Helper()
	h.do(`insert into usage_counters as c (tenant_id, agent, period_start, period_end, count)
		select tenant_id, $2, period_start, period_end, $3 from billing_periods where tenant_id = $1
		on conflict (tenant_id, agent, period_start) do update set count = excluded.count`, tenant, agent, n)
}

// look looks and returns what it recorded.
func (h *house) look() Looked {
	h.Helper()
	looked, err := h.Look(h.Context())
	if err != nil {
		h.Fatal(err)
	}
	return looked
}

// recorded lists a tenant's alerts.
func (h *house) recorded(tenant uuid.UUID) []string {
	h.Helper()
	rows, _ := h.pool.Query(h.Context(), `select agent || ' ' || threshold || '/' || "limit" || ' ' || level || ' ' || count
		from usage_alerts where tenant_id = $1 order by agent, "limit", threshold`, tenant)
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		h.Fatal(err)
	}
	return all
}

func (h *house) mustHave(what string, tenant uuid.UUID, want ...string) {
	h.Helper()
	if got := h.recorded(tenant); !slices.Equal(got, want) {
		h.Errorf("%s: recorded %q, want %q", what, got, want)
	}
}

// open lists the open findings' kinds and subjects.
func (h *house) open() []string {
	h.Helper()
	rows, _ := h.pool.Query(h.Context(), `select kind || ' ' || subject from audit_findings where resolved_at is null order by 1`)
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		h.Fatal(err)
	}
	return all
}

func (h *house) mustBeOpen(what string, want ...string) {
	h.Helper()
	h.look()
	if got := h.open(); !slices.Equal(got, want) {
		h.Errorf("%s: open are %q, want %q", what, got, want)
	}
}

// slack is a webhook that answers as it is told to.
type slack struct {
	*httptest.Server
	mu     sync.Mutex
	texts  []string
	answer http.HandlerFunc // nil: takes it
}

func newSlack(t *testing.T) *slack {
	s := &slack{}
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
	if answer != nil {
		answer(w, r)
	}
}

// answers changes how Slack answers, and forgets what it was told.
func (s *slack) answers(how http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer, s.texts = how, nil
}

func (s *slack) told() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.texts)
}
