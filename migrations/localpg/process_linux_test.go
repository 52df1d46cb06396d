package localpg

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// parentEnv turns this test binary into a process that starts a server in a
// temporary directory, says where, and waits to be killed.
const (
	parentEnv = "ODOMETER_TEST_PARENT"
	inMemory  = "in memory" // a value of it
)

func beParent() {
	s, err := Start(context.Background(), Options{Settings: small, InMemory: os.Getenv(parentEnv) == inMemory})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(s.dir.path, s.URL())
	select {}
}

func TestServerDiesWithItsParent(t *testing.T) {
	t.Parallel()
	for _, where := range []string{"on disk", inMemory} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			dir := testServerDiesWithItsParent(t, where)
			testAbandonedIsRemoved(t, dir, Options{InMemory: where == inMemory})
		})
	}
}

// testServerDiesWithItsParent returns the directory that a killed process leaves.
func testServerDiesWithItsParent(t *testing.T, where string) (dir string) {
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), parentEnv+"="+where)
	stdout, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = parent.Process.Kill()
		_ = parent.Wait()
	}()
	line, _ := bufio.NewReader(stdout).ReadString('\n')
	dir, url, ok := strings.Cut(strings.TrimSpace(line), " ")
	if !ok {
		t.Fatalf("the parent did not start a server: %s", line)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}

	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// Cut off by the server's shutdown, not by our patience.
	if _, err := conn.WaitForNotification(ctx); ctx.Err() != nil {
		t.Fatalf("30 s after its parent the server still serves: %v", err)
	}
	data := dir + "/data"
	for serverRuns(data) || len(processesIn(data)) > 0 {
		if ctx.Err() != nil {
			t.Fatalf("30 s after its parent there are still processes %v", processesIn(data))
		}
	}
	if _, err := os.Stat(data + "/postmaster.pid"); err == nil {
		t.Error("the server did not shut down in order")
	}
	return dir
}

// testAbandonedIsRemoved checks that the next start removes the directory of a
// killed process, and no other.
func testAbandonedIsRemoved(t *testing.T, dead string, o Options) {
	alive := startTest(t, o).dir.path
	for _, dir := range []string{dead, alive} {
		old := time.Now().Add(-time.Hour)
		if err := os.Chtimes(dir, old, old); err != nil {
			t.Fatal(err)
		}
	}
	removeAbandoned(filepath.Dir(dead))
	if _, err := os.Stat(dead); err == nil {
		t.Error("what the killed process left is still there")
	}
	if _, err := os.Stat(alive); err != nil {
		t.Error("a living server's directory was removed")
	}
}
