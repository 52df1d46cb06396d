package bench

import (
	"os"
	"syscall"
)

// syncData waits until the disk holds a file's content, as Postgres waits for
// its log.
func syncData(f *os.File) error { return syscall.Fdatasync(int(f.Fd())) }
