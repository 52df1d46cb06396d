package web

import (
	"os/exec"
	"testing"
)

// TestBundlesAreBuiltFromTheirSources runs the tests of tools/bundle. They are
// in another module, so that the product does not depend on esbuild, and
// `go test ./...` does not enter other modules by itself.
func TestBundlesAreBuiltFromTheirSources(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("installs npm packages, builds the bundles and checks their types")
	}
	cmd := exec.CommandContext(t.Context(), "go", "-C", "../../tools", "test", "-count=1", "./bundle")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %v\n%s", cmd, err, out)
	}
}
