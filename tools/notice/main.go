// Command notice writes the file NOTICE: which modules of others are linked into
// the program, at which version and under which licence. `go generate .` runs it
// in the folder tools; a test of the main module compares the list.
package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// licences are recognized by words that only their texts have.
var licences = []struct{ name, words string }{
	{"MPL-2.0", "mozilla public license version 2.0"},
	{"Apache-2.0", "apache license version 2.0"},
	{"BSD-3-Clause", "neither the name"},
	{"MIT", "permission is hereby granted, free of charge"},
}

const head = `Odometer
Copyright the Odometer authors. Licensed under the Apache License 2.0, see LICENSE.

The program contains the following software of others. Each is used unchanged,
as published; its source and licence text are at
https://pkg.go.dev/MODULE@VERSION?tab=licenses.

River (github.com/riverqueue/river) is under the Mozilla Public License 2.0:
https://www.mozilla.org/MPL/2.0/. Its source code is available at
https://github.com/riverqueue/river under the terms of that licence.

`

// embedded is what the program contains besides Go modules.
const embedded = `
In the pages that the program serves (query/web/dist, and package swgui):
  uPlot 1.6.32                                                     MIT
  Swagger UI                                                       Apache-2.0
`

func main() {
	text, err := notice(context.Background(), "..")
	if err == nil {
		err = os.WriteFile("../NOTICE", text, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "notice:", err)
		os.Exit(1)
	}
}

// notice lists the modules that packages of the program are from.
func notice(ctx context.Context, root string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}", "./cmd/odometer")
	cmd.Dir, cmd.Stderr = root, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%v: %w", cmd, err)
	}
	modules := strings.Split(strings.TrimSpace(string(out)), "\n")
	slices.Sort(modules)
	text := bytes.NewBufferString(head)
	for _, module := range slices.Compact(modules) {
		part := strings.Fields(module)
		name, err := licence(part[2])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", part[0], err)
		}
		fmt.Fprintf(text, "  %-64s %s\n", part[0]+" "+part[1], name)
	}
	text.WriteString(embedded)
	return text.Bytes(), nil
}

// licence names the licences in a module's directory.
func licence(dir string) (string, error) {
	files, _ := filepath.Glob(filepath.Join(dir, "LICEN*")) // only a malformed pattern can fail
	copying, _ := filepath.Glob(filepath.Join(dir, "COPYING*"))
	var text bytes.Buffer
	for _, file := range append(files, copying...) {
		content, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		text.Write(content)
	}
	words := strings.ToLower(strings.Join(strings.Fields(text.String()), " "))
	var found []string
	for _, l := range licences {
		if strings.Contains(words, l.words) {
			found = append(found, l.name)
		}
	}
	if len(found) == 0 {
		return "", fmt.Errorf("no licence is recognized in the files %q: add its words to licences", files)
	}
	return strings.Join(found, ", "), nil
}
