//go:build unix

package localpg

import (
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// process is a running postmaster.
type process struct {
	pid    int
	signal func(syscall.Signal)
	ended  chan struct{} // closed when it has ended and was waited for
}

// spawn starts cmd so that it ends when this process does.
func spawn(cmd *exec.Cmd) (*process, error) {
	dieWithParent(cmd.SysProcAttr)
	p := &process{ended: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// To the kernel the parent is the thread that forked, not the process:
		// that thread must stay for as long as the child runs.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()

		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		cmd.Wait() // how it ended is in its log
		close(p.ended)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	p.pid = cmd.Process.Pid
	p.signal = func(s syscall.Signal) { cmd.Process.Signal(s) } // fails only when it has ended
	return p, nil
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
