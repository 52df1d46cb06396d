// Command bundle builds query/web/dist, which the program embeds, from the
// TypeScript, style sheets and pages in query/web/src. `go generate ./query/web`
// runs it in the folder tools: it installs the locked npm packages, checks the
// types and calls esbuild through its Go API.
//
// dist is committed, so that building the program needs no Node.js. The same
// sources and lock always give the same bytes; a test of this package builds
// them again and compares, and a test of query/web runs the tests of this
// package, because `go test ./...` does not enter another module.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if err := run(context.Background(), "../query/web"); err != nil {
		fmt.Fprintln(os.Stderr, "bundle:", err)
		os.Exit(1)
	}
}

// run makes web/dist anew.
func run(ctx context.Context, web string) error {
	if err := install(ctx, web, os.Stderr); err != nil {
		return err
	}
	if err := check(ctx, web, os.Stderr); err != nil {
		return err
	}
	files, err := build(web)
	if err != nil {
		return err
	}
	return write(filepath.Join(web, "dist"), files)
}

// write replaces the folder's content by the files.
func write(dist string, files map[string][]byte) error {
	if err := os.RemoveAll(dist); err != nil {
		return err
	}
	for name, content := range files {
		path := filepath.Join(dist, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}
