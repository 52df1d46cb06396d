//go:build unix

package localpg

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// oldest is the oldest major version of PostgreSQL that the schema runs on.
const oldest = 15

// installed lists the directories that may hold PostgreSQL's programs, the
// likeliest first.
func installed() []string {
	var dirs []string
	for _, program := range []string{"postgres", "initdb"} {
		found, err := exec.LookPath(program)
		if err != nil {
			continue
		}
		// A link in the PATH: the server looks for its other files beside
		// its real self.
		if real, err := filepath.EvalSymlinks(found); err == nil {
			dirs = append(dirs, filepath.Dir(real))
		}
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin",                          // Debian, Ubuntu
		"/opt/homebrew/opt/postgresql@*/bin",                 // Homebrew on Apple's own processors
		"/usr/local/opt/postgresql@*/bin",                    // Homebrew on Intel
		"/usr/pgsql-*/bin",                                   // PostgreSQL's own packages for Fedora and Red Hat
		"/usr/libexec/postgresql*",                           // Alpine
		"/Applications/Postgres.app/Contents/Versions/*/bin", // Postgres.app
	} {
		matches, _ := filepath.Glob(pattern) // only a malformed pattern can fail
		slices.SortFunc(matches, func(a, b string) int { return cmp.Compare(versionIn(b), versionIn(a)) })
		dirs = append(dirs, matches...)
	}
	return dirs
}

var number = regexp.MustCompile(`\d+`)

// versionIn is the first number in a directory's name.
func versionIn(dir string) int {
	n, _ := strconv.Atoi(number.FindString(dir))
	return n
}

// find returns a directory with programs that the account can run: of version
// major, or of any that the schema runs on when major is 0. What is installed
// comes before what must be fetched.
func find(ctx context.Context, major int, as account, places func() []string, log func(string, ...any)) (string, error) {
	if dir := os.Getenv(BinEnv); dir != "" {
		if real, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres")); err == nil {
			dir = filepath.Dir(real)
		}
		if err := fits(ctx, dir, major, as); err != nil {
			return "", fmt.Errorf("%s=%s: %w", BinEnv, dir, err)
		}
		return dir, nil
	}
	for _, dir := range places() {
		if fits(ctx, dir, major, as) == nil {
			return dir, nil
		}
	}
	dir, err := fetched(ctx, major, as, log)
	if err == nil {
		err = fits(ctx, dir, major, as)
	}
	if err != nil {
		return "", fmt.Errorf("no %s on this machine, and the prebuilt one cannot be used (%w); %s",
			wanted(major), err, remedy())
	}
	return dir, nil
}

func wanted(major int) string {
	if major == 0 {
		return fmt.Sprintf("PostgreSQL %d or newer", oldest)
	}
	return fmt.Sprintf("PostgreSQL %d, which the data is of,", major)
}

// fits returns nil when the programs in dir are there, can be run by the
// account, and have a version of use.
func fits(ctx context.Context, dir string, major int, as account) error {
	if _, err := os.Stat(filepath.Join(dir, "initdb")); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := as.command(ctx, "/", filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return err
	}
	switch v := versionIn(string(out)); {
	case major != 0 && v != major:
		return fmt.Errorf("it is version %d, and the data is of version %d", v, major)
	case v < oldest:
		return fmt.Errorf("it is version %d, and %d is the oldest that will do", v, oldest)
	}
	return nil
}

// remedy names the one command that installs PostgreSQL here.
func remedy() string {
	for _, r := range []struct{ program, command string }{
		{"brew", "brew install postgresql@16"},
		{"apt-get", "apt-get install postgresql"},
		{"dnf", "dnf install postgresql-server postgresql-contrib"},
		{"apk", "apk add postgresql postgresql-contrib"},
		{"pacman", "pacman -S postgresql"},
	} {
		if _, err := exec.LookPath(r.program); err == nil {
			return "to install it run: " + r.command
		}
	}
	return "install it with this system's package manager"
}
