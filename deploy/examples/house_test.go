package examples_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"

	"odometer"
	"odometer/ingest"
	"odometer/ingest/natstest"
	"odometer/migrations/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// house is Odometer as an agent meets it: a NATS server with the stream, and
// the program itself counting into a database.
type house struct {
	binary   string
	database string
	pool     *pgxpool.Pool
	nats     *natstest.Server
	stream   *ingest.Stream
	tenant   uuid.UUID // has the bundle
}

func newHouse(t *testing.T, binary string) *house {
	t.Helper()
	h := &house{binary: binary, database: pgtest.URL(t), nats: natstest.Run(t), tenant: uuid.New()}
	js, err := jetstream.New(h.nats.Connect(t))
	if err != nil {
		t.Fatal(err)
	}
	if h.stream, err = ingest.EnsureStream(within(t), js, ingest.StreamConfig{}); err != nil {
		t.Fatal(err)
	}
	if h.pool, err = pgxpool.New(within(t), h.database); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.pool.Close)
	now := time.Now().UTC()
	h.does(t, "catalogue", "apply", "--database-url", h.database)
	h.does(t, "subscription", "set", "--database-url", h.database, "--tenant", h.tenant.String(),
		"--plan", "price_bundle_monthly", "--status", "active",
		"--period-start", now.AddDate(0, 0, -5).Format(time.RFC3339), "--period-end", now.AddDate(0, 0, 20).Format(time.RFC3339))
	return h
}

// buildOdometer builds the program as a user does.
func buildOdometer(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "odometer")
	run(t, "../..", "go", "build", "-o", binary, "./cmd/odometer")
	return binary
}

// does runs a command of odometer and returns what it prints.
func (h *house) does(t *testing.T, args ...string) string {
	t.Helper()
	return run(t, "", append([]string{h.binary}, args...)...)
}

// serves runs services of odometer until the test ends.
func (h *house) serves(t *testing.T, env []string, services ...string) *process {
	t.Helper()
	args := append([]string{h.binary, "run"}, services...)
	p := start(t, "", env, append(args, "--database-url", h.database, "--nats-url", h.nats.URL(), "--ops-addr", "127.0.0.1:0")...)
	t.Cleanup(p.kill)
	return p
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	t.Cleanup(cancel)
	return ctx
}

// messages is how many messages the stream holds.
func (h *house) messages(t *testing.T) uint64 {
	t.Helper()
	info, err := h.stream.Info(within(t))
	if err != nil {
		t.Fatal(err)
	}
	return info.State.Msgs
}

// stored are the events in the stream. Each must be valid, and all under one
// key the same bytes.
func (h *house) stored(t *testing.T) map[string]odometer.Event {
	t.Helper()
	events, payloads := map[string]odometer.Event{}, map[string]string{}
	for seq := uint64(1); seq <= h.messages(t); seq++ {
		m, err := h.stream.GetMsg(within(t), seq)
		if err != nil {
			t.Fatal(err)
		}
		kind, _, tenantToken, agentToken, _ := ingest.ParseStored(m.Subject)
		e, rejection := ingest.Decode(&ingest.Message{
			Kind: kind, TenantToken: tenantToken, AgentToken: agentToken, Header: m.Header, Data: m.Data, StoredAt: m.Time,
		})
		if rejection == nil {
			rejection = ingest.CheckAge(&e)
		}
		if rejection != nil {
			t.Errorf("message %d, %s: %v", seq, m.Data, rejection)
		}
		if first, ok := payloads[e.Key]; ok && first != string(m.Data) {
			t.Errorf("key %s is stored with different bytes:\n%s\n%s", e.Key, first, m.Data)
		}
		events[e.Key], payloads[e.Key] = e, string(m.Data)
	}
	return events
}

// countsOnce checks that these keys, and no others, are in the stream and in
// the books, once each.
func (h *house) countsOnce(t *testing.T, keys ...string) {
	t.Helper()
	events := h.stored(t)
	for _, key := range keys {
		e, ok := events[key]
		if !ok {
			t.Errorf("key %s is not in the stream", key)
		} else if e.Tenant != h.tenant || e.Agent != "inbox" || e.Action != "email_processed" || e.Quantity != 1 {
			t.Errorf("key %s says %+v", key, e)
		}
	}
	if len(events) != len(keys) {
		t.Errorf("%d keys are in the stream, want %d", len(events), len(keys))
	}
	last := h.messages(t)
	waitFor(t, "the stream is read to its end", func() bool { return h.figure(t, `select coalesce(min(seq), 0) from stream_positions`) >= last })
	if n := h.figure(t, `select coalesce(sum(count), 0)::bigint from usage_counters`); n != uint64(len(keys)) {
		t.Errorf("counted %d, want %d", n, len(keys))
	}
	if n := h.figure(t, `select count(*) from dead_letters`); n != 0 {
		t.Errorf("%d dead letters", n)
	}
}

func (h *house) figure(t *testing.T, query string) (n uint64) {
	t.Helper()
	if err := h.pool.QueryRow(t.Context(), query).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}
