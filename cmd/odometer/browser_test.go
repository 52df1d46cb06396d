package main

import (
	"errors"
	"fmt"
	"odometer/cmd/internal/app"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// browserSpecs are tests of the pages, written with Playwright.
const browserSpecs = "../../query/web/browser"

// TestPagesInABrowser runs the specs of the browser against a demo.
// Their pictures are kept in ODOMETER_PICTURES, when that names a directory.
func TestPagesInABrowser(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("runs a browser")
	}
	chromium, err := findChromium(t)
	if err != nil {
		t.Fatal(err)
	}
	npm(t, browserSpecs)
	specs, err := filepath.Glob(browserSpecs + "/*.spec.mjs")
	if err != nil || len(specs) == 0 {
		t.Fatalf("no specs in %s: %v", browserSpecs, err)
	}
	embedder := app.FreeAddress("127.0.0.1:0") // where a page of another origin will be
	// Not t.TempDir, whose parent is closed to the user that Postgres may run as.
	data, err := os.MkdirTemp("", "odometer-browser-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(data) })
	if err := os.Chmod(data, 0o755); err != nil {
		t.Fatal(err)
	}
	demo := runDemo(t, "--data-dir", data, "--cors-origins", "http://"+embedder)
	secret, err := os.ReadFile(filepath.Join(data, "jwt-secret"))
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	pictures := os.Getenv("ODOMETER_PICTURES")
	if pictures == "" {
		pictures = t.TempDir()
	}
	// One after another: they share two processors with everything else.
	for _, spec := range specs {
		t.Run(strings.TrimSuffix(filepath.Base(spec), ".spec.mjs"), func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "node", "--test", "--test-reporter=spec", filepath.Base(spec))
			cmd.Dir = browserSpecs
			cmd.Env = append(os.Environ(),
				"DEMO_URL="+strings.TrimSuffix(demo.url, "/"), "DEMO_SECRET="+string(secret), "DEMO_DATABASE_URL="+demo.postgres, "DEMO_NATS_URL="+demo.nats,
				"ODOMETER="+self, asProgram+"=1", "EMBEDDER="+embedder, "CHROMIUM="+chromium, "PICTURES="+pictures)
			said, err := cmd.CombinedOutput()
			t.Logf("%s", said)
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// npm installs what a directory's lock file names, where that is not done.
func npm(t *testing.T, dir string) {
	t.Helper()
	if _, err := exec.LookPath("npm"); err != nil {
		t.Fatal("there is no npm: install Node.js 20 or later, which brings it (apt-get install nodejs npm)")
	}
	lock := filepath.Join(dir, "package-lock.json")
	if installed, err := os.ReadFile(filepath.Join(dir, "node_modules", ".installed")); err == nil {
		if wanted, err := os.ReadFile(lock); err == nil && string(installed) == string(wanted) {
			return
		}
	}
	cmd := exec.CommandContext(t.Context(), "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
	cmd.Dir = dir
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("npm ci in %s: %v\n%s", dir, err, said)
	}
	wanted, err := os.ReadFile(lock)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "node_modules", ".installed"), wanted, 0o644); err != nil {
		t.Fatal(err)
	}
}

// findChromium is a browser of the Chromium family: the one that
// ODOMETER_CHROMIUM names, one that is installed, or, for root on Debian and
// its kin, one that is installed now.
func findChromium(t *testing.T) (string, error) {
	t.Helper()
	if named := os.Getenv("ODOMETER_CHROMIUM"); named != "" {
		return named, nil
	}
	if found := installedChromium(); found != "" {
		return found, nil
	}
	if _, err := exec.LookPath("apt-get"); err == nil && os.Geteuid() == 0 {
		t.Log("installing chromium with apt-get (about 120 MB, once): none is installed on this machine")
		for _, args := range [][]string{{"update"}, {"install", "-y", "--no-install-recommends", "chromium"}} {
			cmd := exec.CommandContext(t.Context(), "apt-get", args...)
			cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
			if said, err := cmd.CombinedOutput(); err != nil {
				return "", fmt.Errorf("apt-get %s: %w\n%s", strings.Join(args, " "), err, said)
			}
		}
		if found := installedChromium(); found != "" {
			return found, nil
		}
	}
	return "", errors.New("there is no Chromium: install it (sudo apt-get install chromium; brew install --cask chromium), or name one in ODOMETER_CHROMIUM")
}

func installedChromium() string {
	for _, name := range []string{
		"chromium", "chromium-browser", "google-chrome", "google-chrome-stable",
		"/Applications/Chromium.app/Contents/MacOS/Chromium", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
	} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}
