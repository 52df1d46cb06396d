//go:build unix

package localpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// account is who the server runs as. PostgreSQL refuses root, so a root
// process gives up its rights for the children it starts; anyone else stays
// who they are.
type account struct {
	drop     bool // we are root: children run as uid and gid
	uid, gid uint32
	name     string
}

// accountFor chooses the account for a server's directory. Data from an
// earlier run stays with its owner, so that a run by root does not lock them
// out.
func accountFor(dir string) (account, error) {
	if os.Geteuid() != 0 {
		return account{}, nil
	}
	if info, err := os.Stat(filepath.Join(dir, "data")); dir != "" && err == nil {
		if owner := info.Sys().(*syscall.Stat_t); owner.Uid != 0 {
			return account{true, owner.Uid, owner.Gid, nameOf(owner.Uid)}, nil
		}
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return account{}, fmt.Errorf("user %s: %w", name, err)
		}
		return account{true, uint32(uid), uint32(gid), name}, nil
	}
	return account{}, errors.New("PostgreSQL refuses to run as root, and there is no user postgres or nobody " +
		"to run it as: run this as an ordinary user")
}

func nameOf(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}

// command prepares a program of PostgreSQL's to run as the account, in dir.
// When ctx ends it is asked to end, and given a moment to clean up.
func (a account) command(ctx context.Context, dir, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	cmd.Dir = dir // ours may be closed to the account
	// Not our whole environment: it may hold secrets that the account has no
	// business with, and PG* variables that would change what we say in args.
	cmd.Env = []string{"LC_ALL=C"}
	for _, key := range []string{"PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"} {
		if v, ok := os.LookupEnv(key); ok {
			cmd.Env = append(cmd.Env, key+"="+v)
		}
	}
	// Its own process group: Ctrl-C in the terminal is for us, and we stop
	// the server after its clients.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if a.drop {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid}
	}
	return cmd
}

// mkdir makes a directory that is the account's alone.
func (a account) mkdir(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if !a.drop {
		return nil
	}
	return os.Lchown(dir, int(a.uid), int(a.gid))
}

// makeWay makes dir and its parents unless they are there, such that the
// account can pass through, whatever the umask. It makes nothing below a
// directory that is closed.
func (a account) makeWay(dir string) error {
	_, err := os.Stat(dir)
	if err == nil {
		return a.enter(dir)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := a.makeWay(filepath.Dir(dir)); err != nil {
		return err
	}
	err = os.Mkdir(dir, 0o755)
	if err == nil && a.drop {
		err = os.Chmod(dir, 0o711)
	}
	if errors.Is(err, os.ErrExist) {
		return a.enter(dir) // another process made it meanwhile
	}
	return err
}

// enter returns nil when the account can reach what is in dir, else an error
// that names the directory in its way.
func (a account) enter(dir string) error {
	if !a.drop {
		return nil
	}
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
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
			return closed // the one nearest to the root: it hides the others
		}
	}
}

func (a account) mayPass(info os.FileInfo) bool {
	owner := info.Sys().(*syscall.Stat_t)
	mode := info.Mode().Perm()
	switch {
	case owner.Uid == a.uid:
		return mode&0o100 != 0
	case owner.Gid == a.gid:
		return mode&0o010 != 0
	}
	return mode&0o001 != 0
}
