//go:build unix

package localpg

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Server is a private PostgreSQL. Its methods may be called from any
// goroutine.
type Server struct {
	home     *home
	as       account
	bin      string // directory of initdb and postgres
	settings map[string]string

	mu      sync.Mutex
	proc    *process // nil while it does not run
	stopped bool     // for good: the directory is given up
}

// Start finds or fetches PostgreSQL, makes the data directory unless it is
// there, and returns once the server answers. ctx bounds the start only, not
// the server's life.
func Start(ctx context.Context, o Options) (*Server, error) {
	s, err := start(ctx, o, installed)
	if err != nil {
		return nil, fmt.Errorf("start a private PostgreSQL: %w", err)
	}
	return s, nil
}

// start is Start with the places to look for binaries given.
func start(ctx context.Context, o Options, places func() []string) (_ *Server, err error) {
	if o.Dir != "" {
		if o.Dir, err = filepath.Abs(o.Dir); err != nil {
			return nil, err
		}
	}
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	s := &Server{settings: maps.Clone(defaults)}
	maps.Copy(s.settings, o.Settings)
	if s.as, err = accountFor(o.Dir); err != nil {
		return nil, err
	}
	if s.home, err = openHome(o.Dir, s.as); err != nil {
		return nil, err
	}
	if err := s.prepare(ctx, places, o.Log); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// prepare brings a server with nothing but its directory to life.
func (s *Server) prepare(ctx context.Context, places func() []string, log func(string, ...any)) (err error) {
	major, err := s.home.dataVersion()
	if err != nil {
		return err
	}
	if s.bin, err = find(ctx, major, s.as, places, log); err != nil {
		return err
	}
	if major == 0 {
		if err := s.initdb(ctx); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.run(ctx)
}

// URL is where the server is reached, as its superuser, in database postgres.
// It stays the same over restarts.
func (s *Server) URL() string {
	u := url.URL{Scheme: "postgres", User: url.User("postgres"), Path: "/postgres"}
	u.RawQuery = url.Values{"host": {s.home.run}, "port": {"5432"}, "sslmode": {"disable"}}.Encode()
	return u.String()
}

// PID is the postmaster's process id, 0 while the server does not run.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return 0
	}
	select {
	case <-s.proc.ended: // by itself
		return 0
	default:
		return s.proc.pid
	}
}

// Stop shuts the server down in order, waits for it, and removes a temporary
// directory. After the first call it does nothing.
func (s *Server) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil
	}
	s.stopped = true
	return errors.Join(s.halt(), s.home.close())
}

// Restart stops the server if it runs, and starts it again with the same data
// at the same URL.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return errors.New("restart PostgreSQL: it was stopped for good, start a new one")
	}
	if err := s.halt(); err != nil {
		return fmt.Errorf("restart PostgreSQL: %w", err)
	}
	if err := s.run(ctx); err != nil {
		return fmt.Errorf("restart PostgreSQL: %w", err)
	}
	return nil
}

// Kill ends the server as a crash would, without a word to its clients and
// without writing anything down. [Server.Restart] brings it back.
func (s *Server) Kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return errors.New("kill PostgreSQL: it does not run")
	}
	return s.kill()
}

// halt shuts down fast: clients are cut off, everything is written. Should
// that hang, it is done without writing; the next start then recovers.
func (s *Server) halt() error {
	if s.proc == nil {
		return nil
	}
	s.proc.signal(syscall.SIGINT)
	if s.proc.endsWithin(60 * time.Second) {
		s.proc = nil
		return nil
	}
	s.proc.signal(syscall.SIGQUIT)
	s.proc.endsWithin(5 * time.Second)
	if err := s.kill(); err != nil {
		return err
	}
	return fmt.Errorf("PostgreSQL did not shut down within a minute and was killed; "+
		"its data is intact, see %s", s.home.log())
}

// kill ends the postmaster and then its children, which hold the shared
// memory that the next start needs.
func (s *Server) kill() error {
	s.proc.signal(syscall.SIGKILL)
	<-s.proc.ended
	s.proc = nil
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		orphans := processesIn(s.home.data())
		if len(orphans) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("kill PostgreSQL: its processes %v do not end", orphans)
		}
		for _, pid := range orphans {
			syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
		}
	}
}

// errHeld means that an earlier server is still letting go of the data.
var errHeld = errors.New("the data directory is in use by another server")

// run starts the server and waits until it answers. A process that was killed
// leaves a server that is still shutting down, so a directory in use is asked
// for again, for ten seconds.
func (s *Server) run(ctx context.Context) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := s.runOnce(ctx)
		if !errors.Is(err, errHeld) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (s *Server) runOnce(ctx context.Context) error {
	log, err := openLog(s.home.log())
	if err != nil {
		return err
	}
	defer log.Close()
	// Not ctx: the server lives on when the start is over.
	cmd := s.as.command(context.Background(), s.home.run, filepath.Join(s.bin, "postgres"), s.args()...)
	cmd.Stdout, cmd.Stderr = log.File, log.File
	if s.proc, err = spawn(cmd); err != nil {
		s.proc = nil
		return fmt.Errorf("run %s: %w", cmd.Path, err)
	}
	for !s.answers(ctx) {
		select {
		case <-s.proc.ended:
			s.proc = nil
			return log.failure()
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("wait for PostgreSQL to answer: %w", ctx.Err()), s.kill())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// args are the server's settings. The last three make it private and cannot
// be given.
func (s *Server) args() []string {
	args := []string{"-D", s.home.data()}
	for _, name := range slices.Sorted(maps.Keys(s.settings)) {
		args = append(args, "-c", name+"="+s.settings[name])
	}
	return append(args,
		"-c", "listen_addresses=",
		"-c", "unix_socket_directories="+s.home.run,
		"-c", "port=5432")
}

// answers reports whether clients get through. Any answer will do, even "too
// many connections", except that it is starting up.
func (s *Server) answers(ctx context.Context) bool {
	conn, err := pgx.Connect(ctx, s.URL())
	if err == nil {
		conn.Close(ctx)
		return true
	}
	var refusal *pgconn.PgError
	return errors.As(err, &refusal) && refusal.Code != "57P03" // cannot_connect_now
}

// initdb makes the data directory. It becomes data only when it is whole, so
// that an interrupted start leaves nothing that looks like one.
func (s *Server) initdb(ctx context.Context) error {
	fresh := s.home.data() + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	if err := s.as.mkdir(fresh); err != nil {
		return err
	}
	cmd := s.as.command(ctx, s.home.run, filepath.Join(s.bin, "initdb"),
		"-D", fresh, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, lastLines(out))
	}
	return os.Rename(fresh, s.home.data())
}
