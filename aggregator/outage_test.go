package aggregator

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"

	"odometer/ingest/natstest"
	"odometer/migrations/pgtest"
)

// lasts waits while something goes on.
func (h *testEnv) lasts(d time.Duration) {
	h.T.Helper()
	until := time.After(d)
	h.Eventually("time passes", func() bool {
		select {
		case <-until:
			return true
		default:
			return false
		}
	})
}

// Postgres and NATS go away and come back under load, in order and not: what
// was acknowledged to the publishers is what is counted, and each change is
// logged once.
func TestOutagesLoseNoEvents(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t)
	pool, err := pgxpool.New(t.Context(), server.URL()+"&pool_max_conns=8")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	h := newEnvOn(t, pool)
	l := h.StartLoad(20, h.Subscribe(5)...)
	j, keep := h.logbook()
	h.run(keep)
	restart := func() {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := server.Restart(ctx); err != nil {
			t.Fatal(err)
		}
	}
	kill := func() {
		if err := server.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	nothing := func() {}
	outages := []struct {
		name     string
		down, up func()
	}{
		{"Postgres is killed", kill, restart},
		{"Postgres is stopped and started", restart, nothing},
		{"NATS is stopped", h.Server.Stop, h.Server.Start},
		{"NATS is killed", h.Server.Kill, h.Server.Start},
	}
	for n, o := range outages {
		h.WaitForLoad(l, 100)
		o.down()
		h.Eventually("it logs that it waits: "+o.name, func() bool { return len(j.matching("aggregator waits")) > n })
		h.lasts(time.Second)
		o.up()
		h.Eventually("it logs that it goes on: "+o.name, func() bool { return len(j.matching("aggregator reads again")) > n })
		h.WaitForLoad(l, 100)
		for _, text := range []string{"aggregator waits", "aggregator reads again"} {
			if lines := j.matching(text); len(lines) != n+1 {
				t.Fatalf("%s: logged %d times %q, want %d: %q", o.name, len(lines), text, n+1, lines)
			}
		}
	}
	if n := h.Number(`select count(*) from stream_epochs`); n != 1 {
		t.Errorf("%d epochs, want 1: nothing was lost", n)
	}
	h.counted(l)
	h.CheckMessages()
}

// Both are away, one after the other: it names what it waits for.
func TestLogNamesWhatItWaitsFor(t *testing.T) {
	t.Parallel()
	h := newEnv(t)
	l := h.StartLoad(5, h.Subscribe(2)...)
	c := newCutter()
	pool := c.pool(t, h.Pool)
	j, keep := h.logbook()
	h.run(keep, func(o *Options) { o.Pool = pool })
	h.Eventually("it reads", func() bool { return len(j.matching("reads partitions=")) == 1 })
	h.WaitForLoad(l, 20)
	h.Server.Stop()
	h.Eventually("it waits for NATS", func() bool { return len(j.matching("aggregator waits reason=NATS")) == 1 })
	c.all(true)
	h.Eventually("it waits for Postgres", func() bool { return len(j.matching("aggregator waits reason=Postgres")) == 1 })
	h.start()
	c.mu.Lock()
	c.away = false
	c.mu.Unlock()
	h.Eventually("it goes on", func() bool { return len(j.matching("aggregator reads again")) == 1 })
	if lines := j.matching("aggregator waits"); len(lines) != 2 {
		t.Errorf("logged %q, want one line for each", lines)
	}
	h.counted(l)
	h.CheckMessages()
}

// Neither is there when it starts.
func TestWaitsForPostgresAndNATSAtStart(t *testing.T) {
	t.Parallel()
	h := newEnv(t)
	tenant := h.Subscribe(1)[0]
	h.Publish(email(tenant, "waits", 1))
	c := newCutter()
	c.away = true
	pool := c.pool(t, h.Pool)
	j, keep := h.logbook()
	h.Server.Stop()
	h.run(keep, func(o *Options) { o.Pool = pool })
	h.Eventually("it waits for Postgres", func() bool { return len(j.matching("aggregator waits reason=Postgres")) == 1 })
	c.mu.Lock()
	c.away = false
	c.mu.Unlock()
	h.Eventually("it waits for NATS", func() bool { return len(j.matching("aggregator waits reason=NATS")) == 1 })
	h.start()
	h.Eventually("it counts", func() bool { return h.Count(tenant, "inbox") == 1 })
	if lines := j.matching("aggregator waits"); len(lines) != 2 {
		t.Errorf("logged %q, want one line for each", lines)
	}
}

// swallowing connects to NATS and can take what is sent to nowhere.
type swallowing struct {
	server *natstest.Server
	mu     sync.Mutex
	on     bool
	lost   int // writes
	conn   net.Conn
}

func (s *swallowing) InProcessConn() (net.Conn, error) {
	conn, err := s.server.InProcessConn()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn = conn
	return swallowingConn{conn, s}, nil
}

type swallowingConn struct {
	net.Conn
	s *swallowing
}

func (c swallowingConn) Write(b []byte) (int, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if c.s.on {
		c.s.lost++
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// The connection to NATS breaks while an answer is awaited that never comes:
// it is asked again as soon as the connection is back.
func TestLostAnswerDoesNotBlock(t *testing.T) {
	t.Parallel()
	h := newEnv(t)
	tenant := h.Subscribe(1)[0]
	h.Publish(email(tenant, "waits", 1))
	s := &swallowing{server: h.Server}
	nc, err := nats.Connect("", nats.InProcessServer(s), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	set := func(on bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.on = on
	}
	set(true)
	h.run(func(o *Options) { o.NATS = nc })
	h.Eventually("it has asked", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.lost > 0
	})
	set(false)
	_ = s.conn.Close()
	h.Eventually("connected again", func() bool { return nc.Stats().Reconnects > 0 && nc.IsConnected() })
	began := time.Now()
	h.Eventually("it counts", func() bool { return h.Count(tenant, "inbox") == 1 })
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it went on %v after the connection was back", took)
	}
}
