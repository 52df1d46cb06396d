package aggregator

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// cutter stands on the wire between a pool and Postgres, understands as much of
// the protocol as distinguishes one statement from another, and cuts connections.
type cutter struct {
	mu    sync.Mutex
	cut   func(side, string) bool // called with mu held; true cuts there
	conns map[*wire]bool
	away  bool // connections are refused
}

// side is where a statement is when the wire is cut.
type side int

const (
	goingOut side = iota // it does not reach the server
	answered             // the server has done it, its answer does not arrive
)

var errCut = &net.OpError{Op: "write", Net: "cutter", Err: syscall.EPIPE}

// pool opens a pool behind the cutter to the database of another.
func (c *cutter) pool(t testing.TB, like *pgxpool.Pool) *pgxpool.Pool {
	t.Helper()
	config := like.Config()
	dial := config.ConnConfig.DialFunc
	config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c.mu.Lock()
		away := c.away
		c.mu.Unlock()
		if away {
			return nil, errCut
		}
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		w := &wire{Conn: conn, c: c, statements: map[string]string{}}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.conns[w] = true
		return w, nil
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func newCutter() *cutter { return &cutter{conns: map[*wire]bool{}} }

// at cuts whenever a statement with that text is on that side, times times, after having let
// it pass skip times. It returns how often it has cut.
func (c *cutter) at(where side, sql string, skip, times int) (done func() int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cuts := 0
	c.cut = func(s side, statement string) bool {
		if s != where || !strings.Contains(statement, sql) || cuts == times {
			return false
		}
		if skip > 0 {
			skip--
			return false
		}
		cuts++
		return true
	}
	return func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return cuts
	}
}

// all cuts every connection; away also refuses new ones.
func (c *cutter) all(away bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.away = away
	for w := range c.conns {
		_ = w.Conn.Close()
	}
}

// wire is one connection to Postgres.
type wire struct {
	net.Conn
	c *cutter

	// Of the writer: what the client sends.
	began      bool // the startup message is through
	out        []byte
	statements map[string]string // prepared, by name
	bound      string

	// Shared, under c.mu: statements that the server has not answered.
	waiting []string

	// Of the reader.
	in, ready []byte
}

func (w *wire) Close() error {
	w.c.mu.Lock()
	delete(w.c.conns, w)
	w.c.mu.Unlock()
	return w.Conn.Close()
}

// message splits the first message off b; nil when it is not all there.
func message(b []byte, typed bool) (msg, rest []byte) {
	head := 0
	if typed {
		head = 1
	}
	if len(b) < head+4 {
		return nil, b
	}
	n := head + int(binary.BigEndian.Uint32(b[head:]))
	if len(b) < n {
		return nil, b
	}
	return b[:n], b[n:]
}

func text(b []byte) (s string, rest []byte) {
	s, after, _ := strings.Cut(string(b), "\x00")
	return s, []byte(after)
}

func (w *wire) Write(b []byte) (int, error) {
	w.out = append(w.out, b...)
	var pass []byte
	for {
		msg, rest := message(w.out, w.began)
		if msg == nil {
			break
		}
		if w.began && w.clientSends(msg) {
			_, _ = w.Conn.Write(pass)
			_ = w.Conn.Close()
			return 0, errCut // as when the server has gone
		}
		w.began = true
		pass, w.out = append(pass, msg...), rest
	}
	if _, err := w.Conn.Write(pass); err != nil {
		return 0, err
	}
	return len(b), nil
}

// clientSends follows what the client sends; true cuts the wire before it.
func (w *wire) clientSends(msg []byte) bool {
	body := msg[5:]
	switch msg[0] {
	case 'P': // Parse
		name, rest := text(body)
		w.statements[name], _ = text(rest)
	case 'B': // Bind
		_, rest := text(body)
		name, _ := text(rest)
		w.bound = w.statements[name]
	case 'Q': // simple query
		w.bound, _ = text(body)
		return w.executes()
	case 'E': // Execute
		return w.executes()
	}
	return false
}

func (w *wire) executes() bool {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	w.waiting = append(w.waiting, w.bound)
	return w.c.cut != nil && w.c.cut(goingOut, w.bound)
}

func (w *wire) Read(b []byte) (int, error) {
	for len(w.ready) == 0 {
		buf := make([]byte, 16<<10)
		n, err := w.Conn.Read(buf)
		w.in = append(w.in, buf[:n]...)
		for {
			msg, rest := message(w.in, true)
			if msg == nil {
				break
			}
			if w.serverSends(msg) {
				_ = w.Conn.Close()
				return 0, io.EOF
			}
			w.ready, w.in = append(w.ready, msg...), rest
		}
		if err != nil && len(w.ready) == 0 {
			return 0, err
		}
	}
	n := copy(b, w.ready)
	w.ready = w.ready[n:]
	return n, nil
}

// serverSends follows what the server sends; true cuts the wire before it arrives.
func (w *wire) serverSends(msg []byte) bool {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	switch msg[0] {
	case 'C', 'I': // CommandComplete, EmptyQueryResponse
		if len(w.waiting) == 0 {
			return false
		}
		sql := w.waiting[0]
		w.waiting = w.waiting[1:]
		return w.c.cut != nil && w.c.cut(answered, sql)
	case 'Z': // ReadyForQuery: what was not answered never will be
		w.waiting = nil
	}
	return false
}

// The cutter itself: a commit that is cut when it goes out did not happen, one
// whose answer is cut did.
func TestCutterCutsAtStatement(t *testing.T) {
	t.Parallel()
	h := newEnv(t)
	for _, row := range []struct {
		where side
		want  int64
	}{{goingOut, 0}, {answered, 1}} {
		c := newCutter()
		pool := c.pool(t, h.Pool)
		if _, err := pool.Exec(t.Context(), `create table if not exists mark (n int)`); err != nil {
			t.Fatal(err)
		}
		if _, err := pool.Exec(t.Context(), `delete from mark`); err != nil {
			t.Fatal(err)
		}
		done := c.at(row.where, "commit", 0, 1)
		tx, err := pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), `insert into mark values (1)`); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := tx.Commit(ctx); err == nil {
			t.Error("the commit was answered")
		}
		if done() != 1 {
			t.Errorf("%d cuts, want 1", done())
		}
		h.Eventually("the server knows the outcome", func() bool { return h.Number(`select count(*) from mark`) == row.want })
	}
}
