//go:build unix

package localpg

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
)

// serverLog is the server's log file, and where this run of it begins.
type serverLog struct {
	*os.File
	begin int64
}

func openLog(file string) (*serverLog, error) {
	// Not through a link: as root we would write wherever it points.
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR|os.O_APPEND|syscall.O_NOFOLLOW, 0o644)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &serverLog{f, info.Size()}, nil
}

// failure is why the server ended, by its own last words.
func (l *serverLog) failure() error {
	said, err := io.ReadAll(io.NewSectionReader(l, l.begin, 1<<20))
	if err != nil {
		return err
	}
	reason := errors.New("PostgreSQL ended while it started")
	if bytes.Contains(said, []byte(`lock file "postmaster.pid" already exists`)) ||
		bytes.Contains(said, []byte("shared memory block")) {
		reason = errHeld
	}
	return fmt.Errorf("%w: %s", reason, lastLines(said))
}

// lastLines is the end of what a program said, on one line.
func lastLines(said []byte) string {
	lines := strings.Split(strings.TrimSpace(string(said)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], " | ")
}
