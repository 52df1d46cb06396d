package localpg

import (
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// dieWithParent has the kernel send a fast shutdown (SIGINT) when we die. Go
// sets this after it has changed the user, which would clear it.
func dieWithParent(attr *syscall.SysProcAttr) {
	attr.Pdeathsig = syscall.SIGINT
}

// processesIn lists the processes that work in a data directory: a server's
// postmaster and its children, which outlive it for a moment when it is
// killed.
func processesIn(data string) (pids []int) {
	data, err := filepath.EvalSymlinks(data)
	if err != nil {
		return nil
	}
	links, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range links {
		if dir, err := os.Readlink(link); err != nil || dir != data {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// memoryDir is a directory in memory with 2 GiB free, "" if there is none.
func memoryDir() string {
	const dir = "/dev/shm"
	var stat syscall.Statfs_t
	if err := syscall.Statfs(dir, &stat); err != nil || stat.Bavail*uint64(stat.Bsize) < 2<<30 {
		return ""
	}
	return dir
}
