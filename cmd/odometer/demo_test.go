package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"

	"odometer/migrations/pgtest"
)

// demoBooks are the books of one of the demo's tenants after its agents have
// noted what was acknowledged.
type demoBooks struct {
	t       *testing.T
	d       *demo
	said    bytes.Buffer
	before  map[demoKey]tallied
	granted map[demoKey]int64
}

func newDemoBooks(t *testing.T) *demoBooks {
	t.Helper()
	b := &demoBooks{t: t, granted: map[demoKey]int64{{demoTenants[0].id, "inbox"}: 3}}
	b.d = &demo{t: newTerminal(&b.said, t.Output(), "text", "warn"), pool: openPool(t, pgtest.URL(t)), keys: newDemoKeys()}
	b.exec(`insert into usage_counters (tenant_id, agent, period_start, period_end, count) values ($1, 'inbox', '2026-11-01Z', '2026-12-01Z', 0)`, demoTenants[0].id)
	b.count("an earlier run's", "usage", 5)
	var err error
	if b.before, err = loadCounts(t.Context(), b.d.pool, b.d.keys); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		b.count(b.d.keys.next(), "usage", 1)
	}
	return b
}

func (b *demoBooks) exec(sql string, args ...any) {
	b.t.Helper()
	if _, err := b.d.pool.Exec(b.t.Context(), sql, args...); err != nil {
		b.t.Fatal(err)
	}
}

// count stores an event and counts it.
func (b *demoBooks) count(key, kind string, quantity int) {
	b.t.Helper()
	b.exec(`insert into usage_events (tenant_id, event_id, kind, agent, action_type, quantity, idempotency_key, occurred_at, recorded_at, period_start, stream_epoch, stream_seq)
		values ($1, $2, $3, 'inbox', 'email_processed', $4, $5, now(), now(), '2026-11-01Z', 1, 1)`, demoTenants[0].id, uuid.New(), kind, quantity, key)
	b.exec(`update usage_counters set count = count + $1`, quantity)
}

// verdict is what the check prints and finds.
func (b *demoBooks) verdict() (said string, finding error) {
	b.t.Helper()
	found, others, err := b.d.compareAcknowledged(b.t.Context(), b.granted, b.before)
	if err != nil {
		b.t.Fatal(err)
	}
	b.said.Reset()
	finding = b.d.printComparisons(found, others)
	return b.said.String(), finding
}

func TestWhatOthersPublishToTheDemoIsNamedAndNoDifference(t *testing.T) {
	t.Parallel()
	b := newDemoBooks(t)
	if said, finding := b.verdict(); finding != nil || strings.Contains(said, "others") {
		t.Errorf("nobody else published: %v\n%s", finding, said)
	}
	b.count("a visitor's", "usage", 40)
	b.count("a correction", "adjustment", -2)
	said, finding := b.verdict()
	if finding != nil || !regexp.MustCompile(`others published +40\b`).MatchString(said) {
		t.Errorf("%v\n%s", finding, said)
	}
}

// Also where something of somebody else's makes up for it.
func TestTheDemoFindsALossOrADoubleCountOfItsAgents(t *testing.T) {
	t.Parallel()
	own := ` where ctid = (select ctid from usage_events where starts_with(idempotency_key, $1) limit 1)`
	for name, harm := range map[string]func(b *demoBooks){
		"an event lost": func(b *demoBooks) {
			b.exec(`delete from usage_events`+own, b.d.keys.run)
			b.exec(`update usage_counters set count = count - 1`)
			b.count("a visitor's", "usage", 1)
		},
		"an event that was stored and not counted": func(b *demoBooks) {
			b.exec(`update usage_counters set count = count - 1`)
			b.count("a visitor's", "usage", 1)
		},
		"an event counted twice": func(b *demoBooks) {
			b.exec(`update usage_counters set count = count + 1`)
			b.count("a correction", "adjustment", -1)
		},
		"an event stored twice": func(b *demoBooks) { b.count(b.d.keys.next(), "usage", 1) },
		"a visitor's not counted": func(b *demoBooks) {
			b.count("a visitor's", "usage", 1)
			b.exec(`update usage_counters set count = count - 1`)
		},
		"a counter that was not opened": func(b *demoBooks) { b.exec(`delete from usage_counters`) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newDemoBooks(t)
			harm(b)
			if said, finding := b.verdict(); finding == nil || strings.Count(said, "DIFFERENT") != 2 {
				t.Errorf("found %v\n%s", finding, said)
			}
		})
	}
}

// showing is a demo in a process of its own, with its temporary files in dir.
type showing struct {
	cmd        *exec.Cmd
	dir        string
	out        io.ReadCloser
	lines      *bufio.Scanner
	url, token string
	err        bytes.Buffer
}

var usageLine = regexp.MustCompile(`^usage API .*Bearer ([^']+)' (http://[^/]+)/`)

// startShowing waits until the demo has said where its API is.
func startShowing(t *testing.T, args ...string) *showing {
	t.Helper()
	// Not t.TempDir, whose parent is closed to the user that Postgres may run as.
	dir, err := os.MkdirTemp("", "odometer-showing-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := &showing{dir: dir, cmd: program(t, []string{"TMPDIR=" + dir}, append([]string{"demo", "--addr", freeAddress("127.0.0.1:0")}, args...)...)}
	if s.out, err = s.cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	s.cmd.Stderr = &s.err
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.cmd.Process.Signal(os.Interrupt); _ = s.cmd.Wait() })
	for s.lines = bufio.NewScanner(s.out); s.lines.Scan(); {
		if found := usageLine.FindStringSubmatch(s.lines.Text()); found != nil {
			s.token, s.url = found[1], found[2]
			return s
		}
	}
	t.Fatalf("the demo ended before it said where it is: %s", s.err.String())
	return nil
}

// rest is all that is said from now on, until the demo ends.
func (s *showing) rest() string {
	var said strings.Builder
	for s.lines.Scan() {
		said.WriteString(s.lines.Text() + "\n")
	}
	return said.String()
}

// A visitor does what the demo's own words offer.
func TestTheDemoIsRightAlsoWithAVisitorsEvents(t *testing.T) {
	t.Parallel()
	s := startShowing(t)
	body := `{"agent": "invoice", "idempotency_key": "a visitor's", "action_type": "invoice_detected", "quantity": 120}`
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/api/v1/events", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+s.token)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusAccepted {
		t.Fatalf("status %d", response.StatusCode)
	}
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	said := s.rest()
	if err := s.cmd.Wait(); err != nil || strings.Contains(said, "DIFFERENT") || !regexp.MustCompile(`others published +120\b`).MatchString(said) {
		t.Errorf("%v\n%s%s", err, said, s.err.String())
	}
}

// As in the README.
func TestTheDrillFindsAndRepairsEachDamage(t *testing.T) {
	t.Parallel()
	s := startShowing(t, "--for", "20s", "--drill")
	said := s.rest()
	err := s.cmd.Wait()
	_, table, _ := strings.Cut(said, "found as")
	if err != nil || strings.Count(table, " equal ") != 6 || strings.Contains(table, "NOT NAMED RIGHT") {
		t.Errorf("%v\n%s%s", err, said, s.err.String())
	}
}

// As in odometer demo | head.
func TestTheDemoLeavesNothingBehindWhenItsReaderGoesAway(t *testing.T) {
	t.Parallel()
	s := startShowing(t)
	if err := s.out.Close(); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := s.cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != exitFound || strings.Count(s.err.String(), "\n") != 1 || !strings.Contains(s.err.String(), "broken pipe") {
		t.Errorf("%v; it said %q", err, s.err.String())
	}
	s.expectNothingLeft(t)
}

func TestTheDemoLeavesNothingBehindWhenItsTerminalIsClosed(t *testing.T) {
	t.Parallel()
	s := startShowing(t)
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	said := s.rest()
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("%v\n%s%s", err, said, s.err.String())
	}
	s.expectNothingLeft(t)
}

func (s *showing) expectNothingLeft(t *testing.T) {
	t.Helper()
	left, err := os.ReadDir(s.dir)
	if err != nil || len(left) > 0 {
		t.Errorf("it left %v behind, %v", left, err)
	}
}
