package aggregator

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"

	"odometer/ingest"
)

// wire publishes exactly these bytes, past every check of the client library.
func (h *testEnv) wire(subject, header, payload string) {
	h.T.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(h.Server.URL(), "nats://"))
	if err != nil {
		h.T.Fatal(err)
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	if _, err := answers.ReadString('\n'); err != nil { // INFO
		h.T.Fatal(err)
	}
	fmt.Fprintf(conn, "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true}\r\n")
	if header == "" {
		fmt.Fprintf(conn, "PUB %s %d\r\n%s\r\n", subject, len(payload), payload)
	} else {
		fmt.Fprintf(conn, "HPUB %s %d %d\r\n%s%s\r\n", subject, len(header), len(header)+len(payload), header, payload)
	}
	fmt.Fprintf(conn, "PING\r\n")
	for {
		line, err := answers.ReadString('\n')
		if err != nil || strings.HasPrefix(line, "-ERR") {
			h.T.Fatalf("publish to %q: server answered %q, %v", subject, line, err)
		}
		if strings.HasPrefix(line, "PONG") {
			return
		}
	}
}

// Whatever an agent may publish, it becomes a dead letter or counts; it never
// stops the reading, neither now nor when the next reader begins behind it.
func TestNoMessageStopsReading(t *testing.T) {
	t.Parallel()
	good := "usage." + tenantOf(0).String() + ".inbox"
	const valid = `{"idempotency_key":"hostile","action_type":"email_processed"}`
	for _, row := range []struct{ name, subject, header, payload string }{
		{"wildcard for a tenant", "usage.*.inbox", "", valid},
		{"wildcard for an agent", "usage." + tenantOf(0).String() + ".*", "", valid},
		{"full wildcard at the end", "usage." + tenantOf(0).String() + ".>", "", valid},
		{"full wildcard in the middle", "usage.>.inbox", "", valid},
		{"subject that is not UTF-8", "usage.\xff\xfe.\x80", "", valid},
		{"tenant with a control character", "usage.\x01\x7f.inbox", "", valid},
		{"forged time", good, "NATS/1.0\r\nNats-Time-Stamp: 2001-01-01T00:00:00Z\r\n\r\n", valid},
		{"forged time that is none", good, "NATS/1.0\r\nNats-Time-Stamp: now\r\n\r\n", valid},
		{"forged sequence", good, "NATS/1.0\r\nNats-Sequence: seven\r\n\r\n", valid},
		{"forged stream and subject", good, "NATS/1.0\r\nNats-Stream: X\r\nNats-Subject: usage.0.x.y\r\n\r\n", valid},
		{"status 100", good, "NATS/1.0 100 Idle Heartbeat\r\n\r\n", ""},
		{"status 404", good, "NATS/1.0 404 No Messages\r\n\r\n", ""},
		{"status 408", good, "NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 100\r\n\r\n", ""},
		{"status 409", good, "NATS/1.0 409 Consumer Deleted\r\n\r\n", ""},
		{"status 503", good, "NATS/1.0\r\nStatus: 503\r\n\r\n", ""},
		{"status of no meaning", good, "NATS/1.0\r\nStatus: x\r\n\r\n", ""},
		{"status with a payload", good, "NATS/1.0 409 Consumer Deleted\r\n\r\n", valid},
		{"headers that are none", good, "malformed\r\n\r\n", valid},
		{"a header line without a name", good, "NATS/1.0\r\n: x\r\nno colon\r\n\r\n", valid},
		{"headers without an end", good, "NATS/1.0\r\nA: b", valid},
		{"headers that are not UTF-8", good, "NATS/1.0\r\n\xff\xfe: \xff\x00\r\n\r\n", valid},
		{"nothing at all", good, "", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			h := newEnvFor(t, ingest.StreamConfig{Partitions: 1})
			tenant := h.Subscribe(1)[0]
			stop := h.run()
			h.Publish(email(tenant, "before", 1))
			h.WaitUntilRead()
			h.wire(row.subject, row.header, row.payload)
			h.Eventually("the stream has taken it", func() bool { return h.LastSeq() == 2 })
			h.WaitUntilRead()
			stop()
			stop = h.run()
			h.Publish(email(tenant, "after", 1))
			h.WaitUntilRead()
			stop()
			h.run()
			h.Publish(email(tenant, "at last", 1))
			h.WaitUntilRead()
			if n := h.Number(`select count(*) from stream_epochs`); n != 1 {
				t.Errorf("%d epochs, want 1", n)
			}
			if n := h.Number(`select count(*) from usage_events where idempotency_key in ('before', 'after', 'at last')`); n != 3 {
				t.Errorf("%d neighbours counted, want 3", n)
			}
			h.CheckCounters()
			h.CheckMessages()
		})
	}
}
