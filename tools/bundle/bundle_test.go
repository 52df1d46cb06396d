package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// web is the folder of the sources.
const web = "../../query/web"

// widgetBytes is what the widget may weigh, compressed, with its styles and
// texts and without the chart, which is loaded when somebody asks for it.
const widgetBytes = 2048

// packages installs what the sources import, unless it was since the lock was
// written.
var packages = sync.OnceValue(func() error {
	lock, err := os.Stat(filepath.Join(web, "package-lock.json"))
	if err != nil {
		return err
	}
	if done, err := os.Stat(filepath.Join(web, "node_modules", ".package-lock.json")); err == nil && !done.ModTime().Before(lock.ModTime()) {
		return nil
	}
	return install(context.Background(), web, os.Stderr)
})

func built(t *testing.T) map[string][]byte {
	t.Helper()
	if err := packages(); err != nil {
		t.Fatal(err)
	}
	files, err := build(web)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestCommittedBundleIsWhatTheSourcesMake(t *testing.T) {
	t.Parallel()
	want := built(t)
	got := map[string][]byte{}
	dist := os.DirFS(filepath.Join(web, "dist"))
	err := fs.WalkDir(dist, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		got[name], err = fs.ReadFile(dist, name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if content, ok := got[name]; !ok {
			t.Errorf("dist/%s is missing; run: go generate ./query/web", name)
		} else if !bytes.Equal(content, want[name]) {
			t.Errorf("dist/%s is not what src makes; run: go generate ./query/web", name)
		}
		delete(got, name)
	}
	for name := range got {
		t.Errorf("dist/%s comes from nothing in src; run: go generate ./query/web", name)
	}
}

func TestSourcesTypeCheck(t *testing.T) {
	t.Parallel()
	if err := packages(); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	if err := check(t.Context(), web, &said); err != nil {
		t.Fatalf("%v\n%s", err, &said)
	}
}

func TestWidgetWeighsAtMostTwoKilobytes(t *testing.T) {
	t.Parallel()
	files := built(t)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		t.Logf("%-22s %6d bytes, %6d gzip", name, len(files[name]), compressed(t, files[name]))
	}
	if n := compressed(t, files["odometer-usage.js"]); n > widgetBytes {
		t.Errorf("odometer-usage.js is %d bytes gzip, want at most %d", n, widgetBytes)
	}
}

func TestWidgetLeavesTheChartOut(t *testing.T) {
	t.Parallel()
	files := built(t)
	if !bytes.Contains(files["odometer-usage.js"], []byte(`import("./odometer-chart.js")`)) {
		t.Error("the widget does not load the chart lazily from beside it")
	}
	if !bytes.Contains(files["odometer-chart.js"], []byte("Permission is hereby granted")) {
		t.Error("the chart has lost uPlot's licence")
	}
}

func TestLockNamesNoRegistry(t *testing.T) {
	t.Parallel()
	lock, err := os.ReadFile(filepath.Join(web, "package-lock.json"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(lock), `"resolved"`) {
		t.Error("package-lock.json has addresses: keep omit-lockfile-registry-resolved in .npmrc")
	}
}

func compressed(t *testing.T, content []byte) int {
	t.Helper()
	var buf bytes.Buffer
	z, err := gzip.NewWriterLevel(&buf, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Len()
}
