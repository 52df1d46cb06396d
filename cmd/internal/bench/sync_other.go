//go:build !linux

package bench

import "os"

// syncData waits until the disk holds a file's content.
func syncData(f *os.File) error { return f.Sync() }
