package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
)

// moment is a point in the life of a ledger entry at which a process can be killed.
type moment string

const (
	atRandom   moment = "at random"               // some time after the start
	unmirrored moment = "generation not mirrored" // Postgres has it, NATS does not
	planned    moment = "planned"                 // the entries are stored, nothing is sent
	sending    moment = "sending"                 // the mark is committed, the call about to be made
	lost       moment = "call under way, lost"    // Stripe never gets it
	late       moment = "call under way, late"    // Stripe gets it when nobody listens any more
	unanswered moment = "applied, not answered"   // Stripe has it and does not answer
	answered   moment = "answered"                // Stripe has answered; the ledger may not have it
	accepted   moment = "accepted"                // the ledger has it too
)

var moments = []moment{atRandom, unmirrored, planned, sending, lost, late, unanswered, answered, accepted}

// meterEventsPath is where meter events are sent.
const meterEventsPath = "/v1/billing/meter_events"

// killPoint waits for a moment to come for the nth time, and then for a death.
type killPoint struct {
	at      moment
	nth     atomic.Int64
	reached chan struct{} // the moment is there
	dead    chan struct{} // the process is not
}

func newKillPoint(at moment, nth int64) *killPoint {
	tr := &killPoint{at: at, reached: make(chan struct{}), dead: make(chan struct{})}
	tr.nth.Store(nth)
	return tr
}

// comes reaches the kill point if this is its moment. What is to stand still until
// the process is dead waits then.
func (tr *killPoint) comes(at moment, standStill bool) bool {
	if tr == nil || tr.at != at || tr.nth.Add(-1) != 0 {
		return false
	}
	close(tr.reached)
	if standStill {
		<-tr.dead
	}
	return true
}

// killPoints pass to a kill point what happens at Stripe and in the ledger.
type killPoints struct{ now atomic.Pointer[killPoint] }

// watch follows each call that reports usage to Stripe.
func (ts *killPoints) watch(stripe http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path != meterEventsPath {
			stripe.ServeHTTP(rw, r)
			return
		}
		_ = r.ParseForm() // now: the dead send no more
		tr := ts.now.Load()
		if tr.comes(lost, true) {
			return
		}
		tr.comes(late, true)
		stalling := &stallingWriter{ResponseWriter: rw, killPoint: tr}
		stripe.ServeHTTP(stalling, r)
		if stalling.begun && http.NewResponseController(rw).Flush() == nil {
			tr.comes(answered, false)
		}
	})
}

// stallingWriter holds an answer back when that is the moment to die.
type stallingWriter struct {
	http.ResponseWriter
	killPoint *killPoint
	begun     bool // not where the connection is reset instead
}

func (w *stallingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *stallingWriter) WriteHeader(status int) {
	w.killPoint.comes(unanswered, true)
	w.begun = true
	w.ResponseWriter.WriteHeader(status)
}

// mirrorPrefix begins each message that mirrors the ledger's generation.
var mirrorPrefix = []byte("PUB $KV.odometer_ledger.")

// relay passes bytes on to the NATS server, but for what the dead have sent.
func (ts *killPoints) relay(t *testing.T, server string) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return // the test has ended
			}
			go ts.relayOne(client, server)
		}
	}()
	return l.Addr().String()
}

func (ts *killPoints) relayOne(client net.Conn, address string) {
	defer client.Close()
	server, err := net.Dial("tcp", address)
	if err != nil {
		return // so the client finds out
	}
	defer server.Close()
	go func() {
		_, _ = io.Copy(client, server) // until either is gone
		_ = client.Close()
	}()
	some := make([]byte, 64<<10)
	for {
		n, err := client.Read(some)
		if err != nil {
			return
		}
		if bytes.Contains(some[:n], mirrorPrefix) && ts.now.Load().comes(unmirrored, true) {
			return
		}
		if _, err := server.Write(some[:n]); err != nil {
			return
		}
	}
}

// The ledger says by itself what is committed in it.
const sayStatesSQL = `
create function say() returns trigger language plpgsql as $$
begin
    perform pg_notify('ledger', new.state);
    return null;
end
$$;
create trigger say after insert or update of state on overage_reports
    for each row execute function say();
listen ledger`

// listen follows what is committed in the ledger until the test ends.
func (w *billed) listen(database string) {
	w.t.Helper()
	conn, err := pgx.Connect(w.t.Context(), database)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := conn.Exec(w.t.Context(), sayStatesSQL); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		defer conn.Close(context.Background())
		for {
			said, err := conn.WaitForNotification(ctx)
			if err != nil {
				return // the test has ended
			}
			w.now.Load().comes(moment(said.Payload), false)
		}
	})
	w.t.Cleanup(func() { cancel(); done.Wait() })
}
