// Package natstest runs a real NATS server with JetStream inside a test's
// process: it starts in milliseconds, so no test needs a stand-in for it.
package natstest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Option changes the server's configuration before it starts. Host, ports and
// StoreDir are the server's own.
type Option func(*server.Options)

// SyncAlways makes the server sync its disk before it acknowledges, as one in
// production must. It is off by default: a process that dies loses nothing
// either way, and a single publish takes several times as long.
func SyncAlways() Option {
	return func(o *server.Options) { o.SyncAlways = true }
}

// WithoutJetStream leaves a plain NATS server.
func WithoutJetStream() Option {
	return func(o *server.Options) { o.JetStream = false }
}

// Server is one server and its store, which outlives Stop and Start, as does
// its address. Stop, Start, Kill, Save and Restore are for one goroutine at a
// time.
type Server struct {
	opts  *server.Options
	dir   string // the store and its saved copies
	saved int
	fail  func(error)

	mu      sync.Mutex // now is read by reconnecting clients
	now     *server.Server
	clients []*nats.Conn
}

// Run starts a server with a store of its own, on a free port of the loopback
// address, and shuts it down at the end of the test.
func Run(t testing.TB, opts ...Option) *Server {
	t.Helper()
	s, err := Start(t.TempDir(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	s.fail = func(err error) { t.Helper(); t.Fatal(err) }
	t.Cleanup(s.Stop)
	return s
}

// Start is Run where there is no test, as in an example: dir takes the store,
// and the caller ends the server with Stop. What fails later panics.
func Start(dir string, opts ...Option) (*Server, error) {
	o := &server.Options{
		ServerName: "natstest",
		JetStream:  true,
		NoLog:      true,
		NoSigs:     true,
	}
	for _, opt := range opts {
		opt(o)
	}
	o.Host, o.Port = "127.0.0.1", server.RANDOM_PORT
	o.HTTPHost, o.HTTPPort = "127.0.0.1", server.RANDOM_PORT
	o.StoreDir = filepath.Join(dir, "store")
	s := &Server{opts: o, dir: dir, fail: func(err error) { panic(err) }}
	if err := s.start(); err != nil {
		return nil, err
	}
	o.Port, o.HTTPPort = s.now.Addr().(*net.TCPAddr).Port, s.now.MonitorAddr().Port
	return s, nil
}

func (s *Server) start() error {
	now, err := server.NewServer(s.opts.Clone()) // the server writes into what it gets
	if err != nil {
		return fmt.Errorf("configure a NATS server in %s: %w", s.dir, err)
	}
	now.Start()
	if !now.ReadyForConnections(10 * time.Second) {
		now.Shutdown()
		return fmt.Errorf("start a NATS server in %s: not ready after 10s; is its port %d free?", s.dir, s.opts.Port)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = now
	return nil
}

// Start starts the server again after Stop or Kill, with the same store and
// port. Clients that reconnect find it there.
func (s *Server) Start() {
	if s.running() != nil {
		s.fail(errors.New("start the NATS server: it is running; Stop it first"))
		return
	}
	if err := s.start(); err != nil {
		s.fail(err)
	}
}

// Stop shuts the server down in order, and returns when the connections that
// Connect made have noticed. Stopping it twice is nothing.
func (s *Server) Stop() {
	if now := s.takeDown(); now != nil {
		s.shutDown(now)
	}
}

// shutDown waits for the clients too: what one sends before it notices goes to
// a server that is gone, and is never answered.
func (s *Server) shutDown(now *server.Server) {
	type noticing struct {
		nc      *nats.Conn
		noticed chan nats.Status
	}
	var waiting []noticing
	for _, nc := range s.connected() {
		waiting = append(waiting, noticing{nc, nc.StatusChanged(nats.RECONNECTING, nats.CLOSED)})
	}
	now.Shutdown()
	now.WaitForShutdown()
	for _, w := range waiting {
		if w.nc.IsConnected() {
			<-w.noticed
		}
		w.nc.RemoveStatusListener(w.noticed)
	}
}

// connected are the clients that Connect made and that still live.
func (s *Server) connected() []*nats.Conn {
	s.mu.Lock()
	clients := slices.Clone(s.clients)
	s.mu.Unlock()
	// Not under the lock: a client that reconnects holds its own and waits for
	// ours in InProcessConn.
	return slices.DeleteFunc(clients, (*nats.Conn).IsClosed)
}

// Kill ends the server as kill -9 would: clients are cut off, and the store
// stays as it was at that moment, without what an orderly end writes.
func (s *Server) Kill() {
	now := s.takeDown()
	if now == nil {
		s.fail(errors.New("kill the NATS server: it is not running"))
		return
	}
	// Nobody may hear an acknowledgement for what the copy no longer sees.
	if conns, err := now.Connz(nil); err == nil {
		for _, c := range conns.Conns {
			_ = now.DisconnectClientByID(c.Cid) // gone already is as good
		}
	}
	left := s.Save()
	s.shutDown(now)
	s.Restore(left)
}

// takeDown makes the server unreachable for new in-process clients.
func (s *Server) takeDown() *server.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now
	s.now = nil
	return now
}

func (s *Server) running() *server.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// Connect makes an in-process connection that lasts until the test ends, and
// comes back by itself after the server was stopped and started.
func (s *Server) Connect(t testing.TB, opts ...nats.Option) *nats.Conn {
	t.Helper()
	defaults := []nats.Option{
		nats.InProcessServer(s), nats.MaxReconnects(-1), nats.ReconnectWait(10 * time.Millisecond), nats.ReconnectJitter(0, 0),
	}
	nc, err := nats.Connect("", append(defaults, opts...)...)
	if err != nil {
		t.Fatalf("connect to the NATS server in %s: %v", s.dir, err)
	}
	t.Cleanup(nc.Close)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients = append(s.clients, nc)
	return nc
}

// InProcessConn implements nats.InProcessConnProvider for whichever server runs
// now.
func (s *Server) InProcessConn() (net.Conn, error) {
	now := s.running()
	if now == nil {
		return nil, errors.New("connect in process: the NATS server is stopped")
	}
	return now.InProcessConn()
}

// URL is the server's address for clients over TCP.
func (s *Server) URL() string { return fmt.Sprintf("nats://127.0.0.1:%d", s.opts.Port) }

// MonitorURL is the address of the server's monitoring endpoint.
func (s *Server) MonitorURL() string { return fmt.Sprintf("http://127.0.0.1:%d", s.opts.HTTPPort) }

// Dir is the directory of the server's store.
func (s *Server) Dir() string { return s.opts.StoreDir }

// Save copies the store and returns the copy's directory. With Restore, it
// takes a stream's tail away as a power failure or an old backup does: save,
// publish, stop, restore, start. Stop the server first if the copy shall hold
// all of it for certain.
func (s *Server) Save() string {
	s.saved++
	to := filepath.Join(s.dir, fmt.Sprintf("saved-%d", s.saved))
	if err := copyTree(s.Dir(), to); err != nil {
		s.fail(fmt.Errorf("save the store: %w", err))
	}
	return to
}

// Restore replaces the store of a stopped server by a copy that Save made; the
// copy stays as it is.
func (s *Server) Restore(saved string) {
	if s.running() != nil {
		s.fail(errors.New("restore the store: the server is running; Stop it first"))
		return
	}
	// Moved and not removed: a killed server's last writes may still be under
	// way, and would put something back in between.
	s.saved++
	err := os.Rename(s.Dir(), filepath.Join(s.dir, fmt.Sprintf("dropped-%d", s.saved)))
	if err == nil {
		err = copyTree(saved, s.Dir())
	}
	if err != nil {
		s.fail(fmt.Errorf("restore the store from %s: %w", saved, err))
	}
}

// copyTree passes over files that vanish while it works: a running server makes
// and removes some.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return os.MkdirAll(filepath.Join(to, name), 0o755)
		}
		return copyFile(path, filepath.Join(to, name))
	})
}

func copyFile(from, to string) error {
	src, err := os.Open(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		dst.Close()
		return err
	}
	return dst.Close()
}
