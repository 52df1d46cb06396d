package examples_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
	"odometer/internal/testenv"
	"odometer/migrations/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// testEnv is Odometer as an agent sees it: a NATS server with the stream, and
// the program itself counting into a database.
type testEnv struct {
	*testenv.Env
	binary   string
	database string    // its URL
	tenant   uuid.UUID // has the bundle
}

func newTestEnv(t *testing.T, binary string) *testEnv {
	t.Helper()
	e := &testEnv{binary: binary, database: pgtest.URL(t), tenant: uuid.New()}
	pool, err := pgxpool.New(t.Context(), e.database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	e.Env = testenv.New(t, testenv.Options{Pool: pool})
	now := time.Now().UTC()
	e.runCommand(t, "catalogue", "apply", "--database-url", e.database)
	e.runCommand(t, "subscription", "set", "--database-url", e.database, "--tenant", e.tenant.String(),
		"--plan", testenv.Bundle, "--status", "active",
		"--period-start", now.AddDate(0, 0, -5).Format(time.RFC3339), "--period-end", now.AddDate(0, 0, 20).Format(time.RFC3339))
	return e
}

// buildOdometer builds the program as a user does.
func buildOdometer(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "odometer")
	run(t, "../..", "go", "build", "-o", binary, "./cmd/odometer")
	return binary
}

// runCommand runs a command of odometer and returns what it prints.
func (e *testEnv) runCommand(t *testing.T, args ...string) string {
	t.Helper()
	return run(t, "", append([]string{e.binary}, args...)...)
}

// runServices runs services of odometer until the test ends.
func (e *testEnv) runServices(t *testing.T, env []string, services ...string) *process {
	t.Helper()
	args := append([]string{e.binary, "run"}, services...)
	p := start(t, "", env, append(args, "--database-url", e.database, "--nats-url", e.Server.URL(), "--ops-addr", "127.0.0.1:0")...)
	t.Cleanup(p.kill)
	return p
}

// storedEvents are the events in the stream. Each must be valid, and all under
// one key the same bytes.
func (e *testEnv) storedEvents(t *testing.T) map[string]odometer.Event {
	t.Helper()
	events, payloads := map[string]odometer.Event{}, map[string]string{}
	for seq := range uint64(e.Messages()) {
		event, payload := e.Stored(seq + 1)
		if first, ok := payloads[event.Key]; ok && first != payload {
			t.Errorf("key %s is stored with different bytes:\n%s\n%s", event.Key, first, payload)
		}
		events[event.Key], payloads[event.Key] = event, payload
	}
	return events
}

// checkCountedOnce checks that these keys, and no others, are in the stream and
// counted, once each.
func (e *testEnv) checkCountedOnce(t *testing.T, keys ...string) {
	t.Helper()
	events := e.storedEvents(t)
	for _, key := range keys {
		event, ok := events[key]
		if !ok {
			t.Errorf("key %s is not in the stream", key)
		} else if event.Tenant != e.tenant || event.Agent != "inbox" || event.Action != "email_processed" || event.Quantity != 1 {
			t.Errorf("key %s is stored as %+v", key, event)
		}
	}
	if len(events) != len(keys) {
		t.Errorf("%d keys are in the stream, want %d", len(events), len(keys))
	}
	e.WaitUntilRead()
	if n := e.Number(`select coalesce(sum(count), 0)::bigint from usage_counters`); n != int64(len(keys)) {
		t.Errorf("counted %d, want %d", n, len(keys))
	}
	if n := e.Number(`select count(*) from dead_letters`); n != 0 {
		t.Errorf("%d dead letters", n)
	}
}

// setFull makes the stream refuse what is new, or store it again.
func (e *testEnv) setFull(t *testing.T, full bool) {
	t.Helper()
	stream, err := e.JetStream.Stream(t.Context(), "USAGE")
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	config.MaxBytes = -1
	if full {
		config.MaxBytes = int64(stream.CachedInfo().State.Bytes)
	}
	if _, err := e.JetStream.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
}
