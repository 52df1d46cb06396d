//go:build unix

package localpg

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// home is a server's directory:
//
//	data/          PostgreSQL's own, the server's account's
//	run/           the socket, the server's account's and closed to others
//	postgres.log   what the server says
//	owner          locked by the process that runs the server
type home struct {
	dir       string
	run       string // usually dir/run
	temporary bool
	owner     *os.File
}

const (
	temporaryPrefix = "odometer-pg-"
	socketName      = ".s.PGSQL.5432"
	maxSocketPath   = 100 // the kernel's limit is 104 on macOS, 108 on Linux, with a NUL
)

func (h *home) data() string { return filepath.Join(h.dir, "data") }
func (h *home) log() string  { return filepath.Join(h.dir, "postgres.log") }

// dataVersion is the major version of PostgreSQL that the data is of, 0 when
// there is none yet.
func (h *home) dataVersion() (int, error) {
	content, err := os.ReadFile(filepath.Join(h.data(), "PG_VERSION"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil {
		return 0, fmt.Errorf("%s/PG_VERSION: %w", h.data(), err)
	}
	return major, nil
}

// openHome makes dir and takes possession of it.
func openHome(dir string, as account) (h *home, err error) {
	h = &home{dir: dir, temporary: dir == ""}
	if h.temporary {
		sweep()
		h.dir, err = temporaryDir(as)
	} else {
		err = as.makeWay(dir)
	}
	if err != nil {
		return nil, err
	}
	if h.owner, err = possess(filepath.Join(h.dir, "owner"), os.O_CREATE); err != nil {
		return nil, err
	}
	if err := h.openRun(as); err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

// openRun makes the socket's directory, elsewhere when dir is too long for
// the path of a socket.
func (h *home) openRun(as account) (err error) {
	h.run = filepath.Join(h.dir, "run")
	if len(filepath.Join(h.run, socketName)) <= maxSocketPath {
		return as.mkdir(h.run)
	}
	elsewhere, err := temporaryDir(as)
	if err != nil {
		return err
	}
	h.run = filepath.Join(elsewhere, "run")
	return as.mkdir(h.run)
}

// close gives the directory up, and removes what was temporary.
func (h *home) close() (err error) {
	if h.temporary {
		err = os.RemoveAll(h.dir)
	} else if elsewhere := filepath.Dir(h.run); h.run != "" && elsewhere != h.dir {
		err = os.RemoveAll(elsewhere)
	}
	return errors.Join(err, release(h.owner))
}

// temporaryDir makes a directory that the account can pass through, short
// enough for a socket.
func temporaryDir(as account) (dir string, err error) {
	for _, base := range []string{os.TempDir(), "/tmp"} {
		if err = as.enter(base); err != nil {
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

// possess locks a file that says whose a directory is. The lock ends with the
// process, also when it is killed, so a directory cannot stay taken.
func possess(file string, flags int) (*os.File, error) {
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

// release unlocks in so many words: closing would not be enough while a child
// that is being forked by another goroutine holds the file open, too.
func release(owner *os.File) error {
	return errors.Join(syscall.Flock(int(owner.Fd()), syscall.LOCK_UN), owner.Close())
}

// sweep removes temporary directories whose process was killed before it
// could. Nothing depends on it, so it reports nothing.
func sweep() {
	left, _ := filepath.Glob(filepath.Join(os.TempDir(), temporaryPrefix+"*"))
	for _, dir := range left {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || int(info.Sys().(*syscall.Stat_t).Uid) != os.Geteuid() {
			continue
		}
		if time.Since(info.ModTime()) < time.Minute {
			continue // it may be made just now, and not be locked yet
		}
		owner, err := possess(filepath.Join(dir, "owner"), 0)
		if err != nil {
			continue // in use
		}
		if !serverRuns(filepath.Join(dir, "data")) {
			os.RemoveAll(dir)
		}
		release(owner)
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
