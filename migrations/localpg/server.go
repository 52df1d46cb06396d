//go:build unix

package localpg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Server is a private PostgreSQL. Its methods may be called from any
// goroutine.
type Server struct {
	dir      *directory
	as       account
	bin      string // directory of initdb and postgres
	settings map[string]string

	mu      sync.Mutex
	proc    *process // nil while it does not run
	stopped bool     // Stop was called, and the directory is released
}

// Start finds or fetches PostgreSQL, creates the data directory unless it
// exists, and returns once the server answers. ctx bounds the start only, not
// the server's life.
func Start(ctx context.Context, o Options) (*Server, error) {
	s, err := start(ctx, o, installed())
	if err != nil {
		return nil, fmt.Errorf("start a private PostgreSQL: %w", err)
	}
	return s, nil
}

// start is Start with the directories to search for programs given.
func start(ctx context.Context, o Options, candidates []string) (_ *Server, err error) {
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
	if s.dir, err = openDirectory(o, s.as); err != nil {
		return nil, err
	}
	if err := s.prepare(ctx, candidates, o.Log); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// prepare finds programs that fit the data, creates the data unless it exists,
// and runs the server.
func (s *Server) prepare(ctx context.Context, candidates []string, log func(string, ...any)) error {
	major, err := s.dir.dataVersion()
	if err != nil {
		return err
	}
	if s.bin, err = find(ctx, major, s.as, candidates, log); err != nil {
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
	u.RawQuery = url.Values{"host": {s.dir.run}, "port": {"5432"}, "sslmode": {"disable"}}.Encode()
	return u.String()
}

// PID is the postmaster's process id, 0 while the server does not run.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil || s.proc.endsWithin(0) {
		return 0
	}
	return s.proc.cmd.Process.Pid
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
	return errors.Join(s.shutDown(), s.dir.close())
}

// Restart stops the server if it runs, and starts it again with the same data
// at the same URL.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return errors.New("restart PostgreSQL: Stop has released its directory; call Start")
	}
	err := s.shutDown()
	if err == nil {
		err = s.run(ctx)
	}
	if err != nil {
		return fmt.Errorf("restart PostgreSQL: %w", err)
	}
	return nil
}

// Kill ends the server as a crash would: clients are cut off, and nothing more
// is written. [Server.Restart] starts it again.
func (s *Server) Kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return errors.New("kill PostgreSQL: it does not run")
	}
	return s.kill()
}

// shutDown asks for a fast shutdown: clients are cut off and everything is
// written. If that hangs, the server is killed; the next start then recovers.
func (s *Server) shutDown() error {
	if s.proc == nil {
		return nil
	}
	s.proc.signal(syscall.SIGINT)
	if s.proc.endsWithin(60 * time.Second) {
		s.proc = nil
		return nil
	}
	if err := s.kill(); err != nil {
		return err
	}
	return fmt.Errorf("PostgreSQL did not shut down within a minute and was killed; "+
		"its data is intact, see %s", s.dir.log())
}

// kill ends the postmaster and then its children, which hold the shared
// memory that the next start needs.
func (s *Server) kill() error {
	s.proc.signal(syscall.SIGKILL)
	<-s.proc.ended
	s.proc = nil
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		orphans := processesIn(s.dir.data())
		if len(orphans) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("kill PostgreSQL: its processes %v do not end", orphans)
		}
		for _, pid := range orphans {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
		}
	}
}

// initdb creates the data directory. It gets its name only when it is complete,
// so that an interrupted start leaves nothing that looks like data.
func (s *Server) initdb(ctx context.Context) error {
	fresh := s.dir.data() + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	if err := s.as.mkdir(fresh); err != nil {
		return err
	}
	cmd := s.as.command(ctx, s.dir.run, filepath.Join(s.bin, "initdb"),
		"-D", fresh, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, lastLines(out))
	}
	return os.Rename(fresh, s.dir.data())
}

// errInUse means that the data is still in use by an earlier server.
var errInUse = errors.New("the data directory is in use by another server")

// run starts the server and waits until it answers. A process that was killed
// leaves a server that is still shutting down, so it tries for ten seconds
// while the data is in use.
func (s *Server) run(ctx context.Context) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := s.runOnce(ctx)
		if !errors.Is(err, errInUse) || time.Now().After(deadline) {
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
	// Not through a link: as root we would write wherever it points.
	log, err := os.OpenFile(s.dir.log(), os.O_CREATE|os.O_RDWR|os.O_APPEND|syscall.O_NOFOLLOW, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	begin, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	// Not ctx: the server lives on after the start.
	cmd := s.as.command(context.Background(), s.dir.run, filepath.Join(s.bin, "postgres"), s.args()...)
	cmd.Stdout, cmd.Stderr = log, log
	if s.proc, err = spawn(cmd); err != nil {
		return fmt.Errorf("run %s: %w", cmd.Path, err)
	}
	for !s.answers(ctx) {
		select {
		case <-s.proc.ended:
			s.proc = nil
			return startFailure(log, begin)
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("wait for PostgreSQL to answer: %w", ctx.Err()), s.kill())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// args are the server's settings. The last three make it private and cannot
// be overridden.
func (s *Server) args() []string {
	args := []string{"-D", s.dir.data()}
	for _, name := range slices.Sorted(maps.Keys(s.settings)) {
		args = append(args, "-c", name+"="+s.settings[name])
	}
	return append(args,
		"-c", "listen_addresses=",
		"-c", "unix_socket_directories="+s.dir.run,
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

// startFailure is why the server ended, by what it has logged since begin.
func startFailure(log *os.File, begin int64) error {
	text, err := io.ReadAll(io.NewSectionReader(log, begin, 1<<20))
	if err != nil {
		return err
	}
	reason := errors.New("PostgreSQL ended while it started")
	if bytes.Contains(text, []byte(`lock file "postmaster.pid" already exists`)) ||
		bytes.Contains(text, []byte("shared memory block")) {
		reason = errInUse
	}
	return fmt.Errorf("%w: %s", reason, lastLines(text))
}

// lastLines is the end of a program's output, on one line.
func lastLines(output []byte) string {
	lines := strings.Split(strings.TrimSpace(string(output)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], " | ")
}

// process is a running postmaster.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has ended and was waited for
}

// spawn starts cmd so that it ends when this process does.
func spawn(cmd *exec.Cmd) (*process, error) {
	dieWithParent(cmd.SysProcAttr)
	p := &process{cmd, make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// To the kernel the parent is the thread that forked, not the process:
		// that thread must stay for as long as the child runs.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()

		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in its log
			close(p.ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

func (p *process) signal(s syscall.Signal) {
	_ = p.cmd.Process.Signal(s) // fails only when it has ended
}

// endsWithin waits for the process to end.
func (p *process) endsWithin(d time.Duration) bool {
	select {
	case <-p.ended:
		return true
	case <-time.After(d):
		return false
	}
}
