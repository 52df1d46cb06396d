//go:build unix && !linux

package localpg

import "syscall"

// dieWithParent does nothing: there is no such thing here, so a server stays
// when we are killed with -9.
func dieWithParent(*syscall.SysProcAttr) {}

// processesIn finds nothing here. The children of a killed postmaster end by
// themselves, and starting again waits for that.
func processesIn(string) []int { return nil }

// memoryDir is "": no such directory is known here.
func memoryDir() string { return "" }
