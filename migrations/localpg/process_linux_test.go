package localpg

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// parentEnv turns this test binary into a process that starts a server in a
// temporary directory, says where, and waits to be killed.
const parentEnv = "ODOMETER_TEST_PARENT"

func beParent() {
	s, err := Start(context.Background(), Options{Settings: small})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(s.dir.path, s.URL())
	select {}
}

func TestServerDiesWithItsParent(t *testing.T) {
	t.Parallel()
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), parentEnv+"=1")
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
	defer os.RemoveAll(dir)
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
	testAbandonedIsRemoved(t, dir)
}

// testAbandonedIsRemoved checks that the next start removes the directory of a
// killed process, and no other.
func testAbandonedIsRemoved(t *testing.T, dead string) {
	alive := startTest(t, Options{}).dir.path
	for _, dir := range []string{dead, alive} {
		old := time.Now().Add(-time.Hour)
		if err := os.Chtimes(dir, old, old); err != nil {
			t.Fatal(err)
		}
	}
	removeAbandoned()
	if _, err := os.Stat(dead); err == nil {
		t.Error("what the killed process left is still there")
	}
	if _, err := os.Stat(alive); err != nil {
		t.Error("a living server's directory was removed")
	}
}
