package aggregator

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"odometer/ingest"
	"odometer/ingest/publisher"
)

// journal is a log that a test can read while it is written.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

func (j *journal) contains(words string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Contains(j.buf.String(), words)
}

func (j *journal) keep(o *Options) { o.Log = slog.New(slog.NewTextHandler(j, nil)) }

// completeAfter waits until every partition is known to be complete after t.
func (h *testEnv) completeAfter(t time.Time) {
	h.T.Helper()
	h.Eventually("complete after "+t.String(), func() bool {
		return h.Number(`select count(*) from stream_positions where complete_until is null or complete_until < $1`, t) == 0
	})
}

func TestQuietRestartStillFindsLostTail(t *testing.T) {
	t.Parallel()
	h := newEnv(t)
	tenant := h.Subscribe(1)[0]
	h.Publish(email(tenant, "a", 1), email(tenant, "b", 1))
	h.Server.Stop()
	saved := h.Server.Save()
	h.Server.Start()
	h.Eventually("connected", h.NATS.IsConnected)
	h.Publish(email(tenant, "c", 1), email(tenant, "d", 1), email(tenant, "e", 1))
	for range 2 { // the second session finds nothing to read
		stop := h.run()
		h.WaitUntilRead()
		h.completeAfter(time.Now())
		stop()
	}
	if n := h.Number(`select count(*) from stream_positions where stored_at is null`); n != 0 {
		t.Errorf("%d positions forgot when their message was stored", n)
	}
	h.Server.Stop()
	h.Server.Restore(saved)
	h.Server.Start()
	h.Eventually("connected", h.NATS.IsConnected)
	h.Publish(email(tenant, "f", 1), email(tenant, "g", 1), email(tenant, "h", 1), email(tenant, "i", 1))
	h.run()
	h.Eventually("a to i are counted", func() bool { return h.Count(tenant, "inbox") == 9 })
	h.CheckCounters()
}

// hpub publishes with a header block that no client library would send.
func (h *testEnv) hpub(subject, header, body string) {
	h.T.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(h.Server.URL(), "nats://"))
	if err != nil {
		h.T.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "CONNECT {\"verbose\":true,\"headers\":true,\"no_responders\":true}\r\nHPUB %s %d %d\r\n%s%s\r\nPING\r\n",
		subject, len(header), len(header)+len(body), header, body)
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		if lines.Text() == "PONG" {
			return
		}
	}
	h.T.Fatal("the server did not take the message")
}

func TestUnreadableHeadersDoNotBlockAttach(t *testing.T) {
	t.Parallel()
	for name, header := range map[string]string{
		"no colon":   "NATS/1.0\r\nrubbish without a colon\r\n\r\n",
		"no version": "RUBBISH\r\n\r\n",
		"binary":     "NATS/1.0\r\n\x00\xff: \xff\x00\r\n\r\n",
		"a status":   "NATS/1.0 503\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newEnv(t)
			tenant := h.Subscribe(1)[0]
			h.Publish(email(tenant, "a", 1))
			h.hpub("usage."+tenant.String()+".inbox", header, `{"idempotency_key":"x","action_type":"email_processed"}`)
			h.Eventually("stored", func() bool {
				stream, err := h.JetStream.Stream(t.Context(), ingest.StreamName)
				return err == nil && stream.CachedInfo().State.LastSeq == 2
			})
			stop := h.run()
			h.WaitUntilRead()
			stop()
			h.run()
			h.Publish(email(tenant, "b", 1))
			h.WaitUntilRead()
			if got := h.Number(`select count(*) from usage_events where idempotency_key = 'b'`); got != 1 {
				t.Errorf("after the restart b is counted %d times", got)
			}
		})
	}
}

func TestWildcardInSubjectIsDeadLetter(t *testing.T) {
	t.Parallel()
	h := newEnv(t)
	tenant := h.Subscribe(1)[0]
	body := `{"idempotency_key":"x","action_type":"email_processed"}`
	h.PublishRaw("usage.*.inbox", body)
	h.PublishRaw("usage."+tenant.String()+".>", body)
	h.Publish(email(tenant, "a", 1))
	h.run()
	h.WaitUntilRead()
	if got := h.Number(`select count(*) from dead_letters where reason = 'invalid_field' and tenant_id is null and subject in ('usage.*.inbox', $1)`, "usage."+tenant.String()+".>"); got != 2 {
		t.Errorf("%d dead letters, want both", got)
	}
	if got := h.Count(tenant, "inbox"); got != 1 {
		t.Errorf("counted %d, want what followed", got)
	}
	h.CheckMessages()
}

// holdPartitions takes the locks of all partitions, as another reader would.
func holdPartitions(t *testing.T, h *testEnv) (release func()) {
	t.Helper()
	conn, err := h.Pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for p := range 4 {
		if _, err := conn.Exec(t.Context(), `select pg_advisory_lock($1, $2)`, lockClass, p); err != nil {
			t.Fatal(err)
		}
	}
	return func() { unlock(t, conn) }
}

func unlock(t *testing.T, conn *pgxpool.Conn) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), `select pg_advisory_unlock_all()`); err != nil {
		t.Fatal(err)
	}
	conn.Release()
}

func TestTakeoverComparesPositionsWithStream(t *testing.T) {
	t.Parallel()
	h := newEnv(t)
	tenant := h.Subscribe(1)[0]
	stop := h.run()
	h.completeAfter(time.Now())
	stop()
	release := holdPartitions(t, h)
	var log journal
	h.run(log.keep)
	h.Eventually("it stands by", func() bool { return log.contains("stands by") })
	for _, key := range []string{"a", "b", "c", "d", "e"} {
		h.Publish(email(tenant, key, 1))
	}
	// What a reader left that had counted three messages of a tail that is lost.
	if _, err := h.Pool.Exec(t.Context(), `update stream_positions set seq = 3, stored_at = now() - interval '1 hour'`); err != nil {
		t.Fatal(err)
	}
	release()
	h.Eventually("all five are counted", func() bool { return h.Count(tenant, "inbox") == 5 })
	if !log.contains("a new epoch begins") {
		t.Error("the cut was not logged")
	}
}

func TestMessagesThatExpireUnreadAreLogged(t *testing.T) {
	t.Parallel()
	h := newEnv(t)
	tenant := h.Subscribe(1)[0]
	stop := h.run()
	h.Publish(email(tenant, "a", 1))
	h.WaitUntilRead()
	h.completeAfter(time.Now())
	stop()
	stream, err := h.JetStream.Stream(t.Context(), ingest.StreamName)
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	config.MaxAge = 2 * time.Second // the least that the duplicate window allows
	if _, err := h.JetStream.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	h.Publish(email(tenant, "b", 1), email(tenant, "c", 1))
	h.Eventually("aged out", func() bool {
		info, err := stream.Info(t.Context())
		return err == nil && info.State.Msgs == 0
	})
	var log journal
	h.run(log.keep)
	h.Eventually("it is logged", func() bool { return log.contains("left the stream unread") })
}

func TestRequestsToServerDoNotMultiply(t *testing.T) {
	t.Parallel()
	h := newEnv(t)
	tenant := h.Subscribe(1)[0]
	const thousands = 40 // eight requests' worth
	for i := range thousands {
		events := make([]publisher.Event, 1000)
		for k := range events {
			events[k] = email(tenant, fmt.Sprintf("%d-%d", i, k), 1)
		}
		h.Publish(events...)
	}
	h.run()
	h.WaitUntilRead()
	stream, err := h.JetStream.Stream(t.Context(), ingest.StreamName)
	if err != nil {
		t.Fatal(err)
	}
	consumers := stream.ListConsumers(context.Background())
	for c := range consumers.Info() {
		if c.NumWaiting > 2 {
			t.Errorf("%d requests are open, want one and perhaps its successor", c.NumWaiting)
		}
	}
	if err := consumers.Err(); err != nil {
		t.Fatal(err)
	}
}

func TestQuietPartitionAdvancesDuringBacklog(t *testing.T) {
	t.Parallel()
	h := newEnv(t)
	tenant := h.Subscribe(1)[0]
	for i := range 60 {
		events := make([]publisher.Event, 1000)
		for k := range events {
			events[k] = email(tenant, fmt.Sprintf("%d-%d", i, k), 1)
		}
		h.Publish(events...)
	}
	h.run(func(o *Options) { o.BatchSize = 500 })
	h.Eventually("every partition is known", func() bool {
		return h.Number(`select count(*) from stream_positions where complete_until is null`) == 0 &&
			h.Number(`select count(*) from stream_positions`) == 4
	})
	if lowest := h.Number(`select min(seq) from stream_positions`); lowest >= 60_000 {
		t.Errorf("they became known only with the backlog's end, at %d", lowest)
	}
}
