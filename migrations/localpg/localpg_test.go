//go:build unix

package localpg

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
)

func TestMain(m *testing.M) {
	if os.Getenv(parentEnv) != "" {
		beParent()
	}
	os.Exit(m.Run())
}

// small is for many servers at once, and leaves no shared memory behind when
// one is killed.
var small = map[string]string{"shared_buffers": "16MB", "fsync": "off", "dynamic_shared_memory_type": "mmap"}

func startTest(t *testing.T, o Options) *Server {
	t.Helper()
	o.Settings = small
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop() })
	return s
}

// openDir is a temporary directory that other users can pass through, which
// those of testing are not.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "localpg-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func execute(t *testing.T, url, sql string) {
	t.Helper()
	conn := connect(t, url)
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func ask(t *testing.T, url, sql string) (answer string) {
	t.Helper()
	conn := connect(t, url)
	defer conn.Close(t.Context())
	if err := conn.QueryRow(t.Context(), sql).Scan(&answer); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return answer
}

func TestServerIsReachedOnlyThroughItsOwnDirectory(t *testing.T) {
	t.Parallel()
	s := startTest(t, Options{InMemory: true})
	if got := ask(t, s.URL(), "show listen_addresses"); got != "" {
		t.Errorf("the server listens on %q", got)
	}
	info, err := os.Stat(s.dir.run)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o700 {
		t.Errorf("the socket's directory has mode %v, want 0700", info.Mode())
	}
	if s.as.drop && info.Sys().(*syscall.Stat_t).Uid != s.as.uid {
		t.Errorf("the socket's directory does not belong to %s", s.as.name)
	}
	if group, err := syscall.Getpgid(s.PID()); err != nil || group != s.PID() {
		t.Errorf("the server is in process group %d, %v: Ctrl-C would reach it", group, err)
	}
}

func TestSettingsReachTheServerExceptThoseThatKeepItPrivate(t *testing.T) {
	t.Parallel()
	s, err := Start(t.Context(), Options{Settings: map[string]string{
		"work_mem": "7MB", "shared_buffers": "16MB", "listen_addresses": "*", "port": "1",
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Stop() }()
	for name, want := range map[string]string{
		"work_mem": "7MB", "shared_buffers": "16MB", "max_wal_size": "4GB", "fsync": "on", "TimeZone": "UTC",
		"listen_addresses": "", "port": "5432",
	} {
		if got := ask(t, s.URL(), "show "+name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
}

func TestStopRemovesATemporaryDirectory(t *testing.T) {
	t.Parallel()
	s := startTest(t, Options{InMemory: true})
	for range 2 {
		if err := s.Stop(); err != nil {
			t.Errorf("Stop = %v", err)
		}
	}
	if _, err := os.Stat(s.dir.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is still there: %v", err)
	}
	if s.PID() != 0 {
		t.Errorf("PID = %d after Stop", s.PID())
	}
	if err := s.Restart(t.Context()); err == nil {
		t.Error("Restart after Stop succeeded")
	}
}

func TestRestartKeepsData(t *testing.T) {
	t.Parallel()
	s := startTest(t, Options{InMemory: true})
	execute(t, s.URL(), "create table kept as select 'kept' as word")
	url, pid := s.URL(), s.PID()
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.URL() != url || s.PID() == pid {
		t.Errorf("after Restart URL %s, PID %d; want the same URL as %s and another PID than %d", s.URL(), s.PID(), url, pid)
	}
	if got := ask(t, url, "select word from kept"); got != "kept" {
		t.Errorf("after Restart the data says %q", got)
	}
}

func TestKilledServerRecovers(t *testing.T) {
	t.Parallel()
	s := startTest(t, Options{InMemory: true})
	execute(t, s.URL(), "create table kept as select 'kept' as word")

	// A backend that computes does not notice by itself that its postmaster
	// is gone.
	busy := connect(t, s.URL())
	cut := make(chan error)
	go func() {
		_, err := busy.Exec(context.Background(), "select count(*) from generate_series(1, 1e12::bigint)")
		cut <- err
	}()
	waitFor(t, s.URL(), "select count(*) = 1 from pg_stat_activity where query like '%1e12%' and pid <> pg_backend_pid()")

	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := <-cut; err == nil {
		t.Error("the client of a killed server got an answer")
	}
	if s.PID() != 0 {
		t.Errorf("PID = %d after Kill", s.PID())
	}
	if err := s.Kill(); err == nil {
		t.Error("Kill of a dead server succeeded")
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := ask(t, s.URL(), "select word from kept"); got != "kept" {
		t.Errorf("after Kill and Restart the data says %q", got)
	}
}

// waitFor returns when a question is answered with true.
func waitFor(t *testing.T, url, sql string) {
	t.Helper()
	conn := connect(t, url)
	defer conn.Close(t.Context())
	for yes := false; !yes; {
		if err := conn.QueryRow(t.Context(), sql).Scan(&yes); err != nil {
			t.Fatal(err)
		}
	}
}

func TestKilledServerCanBeStopped(t *testing.T) {
	t.Parallel()
	s := startTest(t, Options{InMemory: true})
	if err := errors.Join(s.Kill(), s.Stop()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(s.dir.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is still there: %v", err)
	}
}

func TestNextStartFindsTheData(t *testing.T) {
	t.Parallel()
	// Too long for the path of a socket, which must then live elsewhere.
	dir := filepath.Join(openDir(t), strings.Repeat("long", 25), "pg")
	first := startTest(t, Options{Dir: dir})
	execute(t, first.URL(), "create table kept as select 'kept' as word")
	elsewhere := filepath.Dir(first.dir.run)
	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(elsewhere); elsewhere == dir || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket's directory %s is still there", elsewhere)
	}
	second := startTest(t, Options{Dir: dir})
	if got := ask(t, second.URL(), "select word from kept"); got != "kept" {
		t.Errorf("the next start found %q", got)
	}
}

func TestDirectoryServesOneServerAtATime(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	startTest(t, Options{Dir: dir})
	_, err := Start(t.Context(), Options{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("in use by process %d", os.Getpid())) {
		t.Errorf("a second Start in the same directory = %v", err)
	}
}

func TestInterruptedStartLeavesNoBrokenData(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	if err := os.MkdirAll(filepath.Join(dir, "data.new", "base"), 0o700); err != nil {
		t.Fatal(err)
	}
	startTest(t, Options{Dir: dir})

	dir = openDir(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Start(ctx, Options{Dir: dir}); err == nil {
		t.Error("Start with an ended context succeeded")
	}
	startTest(t, Options{Dir: dir})
}

func TestFailedStartSaysWhatPostgresSaid(t *testing.T) {
	t.Parallel()
	_, err := Start(t.Context(), Options{Settings: map[string]string{"shared_buffers": "plenty"}})
	if err == nil || !strings.Contains(err.Error(), `"shared_buffers": "plenty"`) {
		t.Errorf("Start with a wrong setting = %v, want PostgreSQL's own words", err)
	}
}

func TestClosedParentIsNamed(t *testing.T) {
	t.Parallel()
	closed := filepath.Join(openDir(t), "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := Start(t.Context(), Options{Dir: filepath.Join(closed, "deep", "pg")})
	if os.Geteuid() != 0 {
		if err != nil {
			t.Errorf("Start below a directory that is closed to others but ours = %v", err)
		} else if err := s.Stop(); err != nil {
			t.Error(err)
		}
		return
	}
	if err == nil || !strings.Contains(err.Error(), "chmod o+x "+closed) || strings.Contains(err.Error(), "deep") {
		t.Errorf("Start below a closed directory = %v, want what to do about %s", err, closed)
	}
	if left, err := os.ReadDir(closed); err != nil || len(left) > 0 {
		t.Errorf("the refused start left %v, %v", left, err)
	}
}

// The path of a socket is limited; the temporary one must not come near it
// because a user's TMPDIR is long.
func TestLongTMPDIRIsAvoided(t *testing.T) {
	long := filepath.Join(openDir(t), strings.Repeat("long", 25))
	if err := os.Mkdir(long, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", long)
	s := startTest(t, Options{})
	conn, err := net.Dial("unix", filepath.Join(s.dir.run, socketName))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}
