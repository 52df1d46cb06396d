// Package testenv gives tests what the product runs on: a real NATS server with
// the USAGE stream, a real Postgres database with the sample catalogue, and
// short ways to publish messages, to run SQL and to wait for a result. Every
// test gets its own server and its own database, so tests run in parallel.
//
// A test that needs both uses [New]; one that needs only the database uses
// [NewDatabase], and one that needs only the stream uses [NewStream]. Nothing
// here is a stand-in for our own code. testenv does not import the aggregator,
// so that the aggregator's own tests can use it.
package testenv

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"odometer/ingest"
	"odometer/ingest/natstest"
)

// Timeout bounds every wait of a test. It is far above what a loaded machine
// needs.
const Timeout = time.Minute

// Env is one test's stream and database.
type Env struct {
	*Stream
	*Database
}

// Options say what differs from the usual environment.
type Options struct {
	Stream  ingest.StreamConfig // zero: the product's defaults
	NATS    []natstest.Option
	Pool    *pgxpool.Pool // nil: a fresh database
	Tenants int           // how many tenants have a subscription from the start, see [Database.Subscribe]
}

// New starts a NATS server with the stream, and opens a database with the
// catalogue. Both end with the test.
func New(t testing.TB, o Options) *Env {
	t.Helper()
	e := &Env{Stream: NewStream(t, o.Stream, o.NATS...), Database: newDatabase(t, o.Pool)}
	e.Subscribe(o.Tenants)
	return e
}

// WaitUntilRead waits until all partitions are read and committed through the
// end that the stream has now.
func (e *Env) WaitUntilRead() {
	e.Database.t.Helper()
	e.WaitForSQL(`select coalesce(min(seq), -1) >= $1 from stream_positions`, e.LastSeq())
}

// CheckMessages checks promise 3 for a stream that was read once: each message
// is an event, a duplicate or a dead letter, and batches says how many of each.
func (e *Env) CheckMessages() {
	e.Database.t.Helper()
	messages := int64(e.Messages())
	events, dead := e.Number(`select count(*) from usage_events`), e.Number(`select count(*) from dead_letters`)
	type counts struct{ messages, events, duplicates, dead int64 }
	want := counts{messages, events, messages - events - dead, dead}
	got := counts{
		e.Number(`select coalesce(sum(messages), 0)::bigint from batches`), e.Number(`select coalesce(sum(events), 0)::bigint from batches`),
		e.Number(`select coalesce(sum(duplicates), 0)::bigint from batches`), e.Number(`select coalesce(sum(dead), 0)::bigint from batches`),
	}
	if got != want {
		e.Database.t.Errorf("batches says %+v, the stream and the tables say %+v", got, want)
	}
}

// Eventually waits until a condition holds that no query and no event tells of.
func Eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(Timeout)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %v: %s", Timeout, what)
		}
	}
}
