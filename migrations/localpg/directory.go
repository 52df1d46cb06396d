//go:build unix

package localpg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// directory keeps everything of a server:
//
//	data/          PostgreSQL's own, owned by the server's account
//	run/           the socket, owned by the server's account, closed to others
//	postgres.log   what the server logs
//	owner          locked by the process that runs the server
type directory struct {
	path      string
	run       string // usually path/run
	temporary bool
	owner     *os.File
}

const (
	temporaryPrefix = "odometer-pg-"
	socketName      = ".s.PGSQL.5432"
	maxSocketPath   = 100 // the kernel's limit is 104 on macOS, 108 on Linux, with a NUL
)

func (d *directory) data() string { return filepath.Join(d.path, "data") }
func (d *directory) log() string  { return filepath.Join(d.path, "postgres.log") }

// dataVersion is the major version of PostgreSQL that created the data, 0 when
// there is none yet.
func (d *directory) dataVersion() (int, error) {
	content, err := os.ReadFile(filepath.Join(d.data(), "PG_VERSION"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil {
		return 0, fmt.Errorf("%s/PG_VERSION: %w", d.data(), err)
	}
	return major, nil
}

// openDirectory creates the directory of o unless it exists, and locks it.
func openDirectory(o Options, as account) (d *directory, err error) {
	d = &directory{path: o.Dir, temporary: o.Dir == ""}
	switch memory := memoryDir(); {
	case !d.temporary:
		err = as.mkdirAll(d.path)
	case o.InMemory && memory != "":
		removeAbandoned(memory)
		d.path, err = temporaryDir(as, memory)
	default:
		removeAbandoned(os.TempDir())
		d.path, err = temporaryDir(as, temporaryBases()...)
	}
	if err != nil {
		return nil, err
	}
	if d.owner, err = lock(filepath.Join(d.path, "owner"), os.O_CREATE); err != nil {
		return nil, err
	}
	if err := d.createRun(as); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// createRun creates the socket's directory, in a temporary directory when path
// is too long for a socket.
func (d *directory) createRun(as account) error {
	parent := d.path
	if len(filepath.Join(parent, "run", socketName)) > maxSocketPath {
		var err error
		if parent, err = temporaryDir(as, temporaryBases()...); err != nil {
			return err
		}
	}
	d.run = filepath.Join(parent, "run")
	return as.mkdir(d.run)
}

// close unlocks the directory, and removes what was temporary.
func (d *directory) close() (err error) {
	if d.temporary {
		err = os.RemoveAll(d.path)
	} else if parent := filepath.Dir(d.run); d.run != "" && parent != d.path {
		err = os.RemoveAll(parent)
	}
	return errors.Join(err, unlock(d.owner))
}

func temporaryBases() []string { return []string{os.TempDir(), "/tmp"} }

// temporaryDir creates a directory below the first base that the account can
// reach and that is short enough for a socket.
func temporaryDir(as account, bases ...string) (dir string, err error) {
	for _, base := range bases {
		if err = as.reach(base); err != nil {
			continue
		}
		if dir, err = os.MkdirTemp(base, temporaryPrefix); err != nil {
			continue
		}
		if len(filepath.Join(dir, "run", socketName)) > maxSocketPath {
			err = fmt.Errorf("%s is too long a path for a socket: set TMPDIR to a shorter one", base)
			os.Remove(dir)
			continue
		}
		if as.drop {
			err = os.Chmod(dir, 0o711)
		}
		return dir, err
	}
	return "", err
}

// lock locks a directory's owner file for this process. The kernel releases the
// lock when the process ends, also when it is killed.
func lock(file string, flags int) (*os.File, error) {
	f, err := os.OpenFile(file, os.O_RDWR|syscall.O_NOFOLLOW|flags, 0o644)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		pid, _ := os.ReadFile(file)
		err = fmt.Errorf("directory %s is in use by process %s: stop that one, or choose another directory",
			filepath.Dir(file), bytes.TrimSpace(pid))
	}
	if err == nil {
		err = os.WriteFile(file, fmt.Appendln(nil, os.Getpid()), 0o644)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// unlock releases the lock explicitly: closing would not be enough while a
// child that another goroutine is forking holds the file open, too.
func unlock(owner *os.File) error {
	return errors.Join(syscall.Flock(int(owner.Fd()), syscall.LOCK_UN), owner.Close())
}

// removeAbandoned removes temporary directories of processes that were killed.
// Nothing depends on it, so it reports nothing.
func removeAbandoned(base string) {
	found, _ := filepath.Glob(filepath.Join(base, temporaryPrefix+"*"))
	for _, dir := range found {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || ownerOf(info).Uid != uint32(os.Geteuid()) {
			continue
		}
		if time.Since(info.ModTime()) < time.Minute {
			continue // it may be new, and not locked yet
		}
		owner, err := lock(filepath.Join(dir, "owner"), 0)
		if err != nil {
			continue // in use
		}
		if !serverRuns(filepath.Join(dir, "data")) {
			os.RemoveAll(dir)
		}
		_ = unlock(owner)
	}
}

// serverRuns reports whether a data directory's server may still be alive.
func serverRuns(data string) bool {
	content, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return false
	}
	line, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(line)
	return err == nil && !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

func ownerOf(info os.FileInfo) *syscall.Stat_t { return info.Sys().(*syscall.Stat_t) }

// account is the user that the server runs as. PostgreSQL refuses root, so a
// root process runs its programs as another user; any other user stays.
type account struct {
	drop     bool // we are root: programs run as uid and gid
	uid, gid uint32
	name     string
}

// accountFor chooses the account for a server's directory. Existing data stays
// with its owner, so that a run by root does not lock that user out.
func accountFor(dir string) (account, error) {
	if os.Geteuid() != 0 {
		return account{}, nil
	}
	if info, err := os.Stat(filepath.Join(dir, "data")); dir != "" && err == nil && ownerOf(info).Uid != 0 {
		owner := ownerOf(info)
		id := strconv.FormatUint(uint64(owner.Uid), 10)
		if u, err := user.LookupId(id); err == nil {
			id = u.Username
		}
		return account{true, owner.Uid, owner.Gid, id}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		return account{true, uint32(uid), uint32(gid), u.Username}, errors.Join(err1, err2)
	}
	return account{}, errors.New("PostgreSQL refuses to run as root, and there is no user postgres or nobody " +
		"to run it as: run this as an ordinary user")
}

// command prepares a program of PostgreSQL to run as the account, in dir. When
// ctx ends it gets SIGTERM, and a moment to clean up.
func (a account) command(ctx context.Context, dir, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	cmd.Dir = dir // ours may be closed to the account
	// Not our whole environment: it may hold secrets, and PG* variables that
	// would change what args say.
	cmd.Env = []string{"LC_ALL=C"}
	for _, key := range []string{"PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"} {
		if v, ok := os.LookupEnv(key); ok {
			cmd.Env = append(cmd.Env, key+"="+v)
		}
	}
	// A process group of its own: Ctrl-C in the terminal is for us, and we stop
	// the server after its clients.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if a.drop {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid}
	}
	return cmd
}

// mkdir creates a directory that only the account can read.
func (a account) mkdir(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if !a.drop {
		return nil
	}
	return os.Lchown(dir, int(a.uid), int(a.gid))
}

// mkdirAll creates dir and its parents unless they exist, such that the account
// can reach them, whatever the umask. It creates nothing below a directory that
// the account cannot reach.
func (a account) mkdirAll(dir string) error {
	err := a.reach(dir)
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := a.mkdirAll(filepath.Dir(dir)); err != nil {
		return err
	}
	err = os.Mkdir(dir, 0o755)
	if errors.Is(err, os.ErrExist) {
		return a.reach(dir) // another process created it meanwhile
	}
	if err == nil && a.drop {
		err = os.Chmod(dir, 0o711)
	}
	return err
}

// reach returns nil when dir exists and the account can reach what is in it. If
// a directory is closed, the error names the one nearest to the root.
func (a account) reach(dir string) error {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil || !a.drop {
		return err
	}
	var closed error
	for ; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if !a.mayPass(info) {
			closed = fmt.Errorf("directory %s is closed to user %s, as whom PostgreSQL runs because root may not: "+
				"choose another directory, or run: chmod o+x %s", dir, a.name, dir)
		}
		if dir == filepath.Dir(dir) {
			return closed
		}
	}
}

func (a account) mayPass(info os.FileInfo) bool {
	owner, mode := ownerOf(info), info.Mode().Perm()
	switch {
	case owner.Uid == a.uid:
		return mode&0o100 != 0
	case owner.Gid == a.gid:
		return mode&0o010 != 0
	}
	return mode&0o001 != 0
}
