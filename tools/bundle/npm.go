package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
)

// errNoNPM says what to do about it.
var errNoNPM = errors.New("npm is not on the PATH: install Node.js 20 or newer (apt-get install npm, brew install node)")

// install puts the packages of package-lock.json, and no other, into the
// folder's node_modules.
func install(ctx context.Context, web string, out io.Writer) error {
	return npm(ctx, web, out, "ci")
}

// check lets TypeScript look at the types; esbuild only takes them out.
func check(ctx context.Context, web string, out io.Writer) error {
	return npm(ctx, web, out, "run", "--silent", "check")
}

func npm(ctx context.Context, web string, out io.Writer, args ...string) error {
	path, err := exec.LookPath("npm")
	if err != nil {
		return errNoNPM
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = web, out, out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("npm %v in %s: %w", args, web, err)
	}
	return nil
}
