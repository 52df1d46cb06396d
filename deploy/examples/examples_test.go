// Package examples_test runs the examples as their readers would, against a
// real NATS server and the real program, and kills them at each place where a
// crash could lose an event or count it twice: during the act, between the act
// and the publishing, and between the storing and the news of it.
package examples_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"odometer/ingest/publisher"
	"odometer/internal/testenv"
)

func TestActionIsCountedOnceHoweverOftenTheAgentIsKilled(t *testing.T) {
	t.Parallel()
	binary := buildOdometer(t)
	for _, example := range []struct {
		name    string
		prepare func(*testing.T) agent
	}{
		{"python", pythonAgent},
		{"typescript", typescriptAgent},
	} {
		t.Run(example.name, func(t *testing.T) {
			t.Parallel()
			x := newTrial(t, example.prepare(t), newTestEnv(t, binary))
			killed := x.killEverywhere(t)
			x.runToEnd(t)
			checkPublications(t, x.proxy.published())
			x.env.checkCountedOnce(t, "email:mail-1", `email:mail "2" ä`, "email:mail-3")
			if e := x.env.storedEvents(t)["email:mail-1"]; e.OccurredAt.After(killed) {
				t.Errorf("the published event occurred at %s, so it is not the one that was stored before the act, at the latest at %s", e.OccurredAt, killed)
			}
		})
	}
	t.Run("curl", func(t *testing.T) {
		t.Parallel()
		s := newShell(t, binary)
		stored := s.killEverywhere(t)
		s.runToEnd(t, stored)
		s.meetRejections(t)
		s.env.checkCountedOnce(t, "email:mail-1", "email:mail-2", "email:mail-3", "email:mail-4")
	})
}

// agent is an example, ready to be run.
type agent struct {
	dir  string
	argv []string
	env  []string
	tear func(*testing.T) // leaves its journal as a crash during a write does
}

// pythonAgent uses nats-py where it is installed or its registry can be
// reached, and otherwise a stand-in for it.
func pythonAgent(t *testing.T) agent {
	t.Helper()
	a := agent{dir: copyOf(t, "python"), argv: []string{"python3", "agent.py"}}
	if out, err := command(t, a.dir, "python3", "-c", "import nats.js").CombinedOutput(); err == nil {
		return a
	} else if !strings.Contains(string(out), "ModuleNotFoundError") {
		t.Fatalf("python3 -c 'import nats.js': %v: %s; install Python 3.9 or newer", err, out)
	}
	packages := filepath.Join(a.dir, "packages")
	a.env = []string{"PYTHONPATH=" + packages}
	out, err := command(t, a.dir, "python3", "-m", "pip", "install", "--disable-pip-version-check",
		"--retries", "0", "--timeout", "5", "--target", packages, "--requirement", "requirements.txt").CombinedOutput()
	if err != nil {
		t.Logf("NOT RUN WITH nats-py: its registry could not be reached, or does not have it: %s", out)
		t.Logf("deploy/examples/python runs with testdata/nats/nats.py in its place, against the same server")
		a.env = []string{"PYTHONPATH=" + copyOf(t, filepath.Join("testdata", "nats"))}
	}
	return a
}

func typescriptAgent(t *testing.T) agent {
	t.Helper()
	dir := copyOf(t, "typescript")
	run(t, dir, "npm", "ci", "--no-audit", "--no-fund", "--prefer-offline")
	run(t, dir, "npm", "run", "build")
	return agent{dir: dir, argv: []string{"node", "agent.js"}, tear: func(t *testing.T) {
		t.Helper()
		journal, err := os.OpenFile(filepath.Join(dir, "journal.ndjson"), os.O_APPEND|os.O_WRONLY, 0)
		if err == nil {
			_, err = journal.WriteString(`{"key":"email:mail-9","subject":"usage.`)
		}
		if err := errors.Join(err, journal.Close()); err != nil {
			t.Fatal(err)
		}
	}}
}

// copyOf keeps what the examples install and write out of the source tree.
func copyOf(t *testing.T, example string) string {
	t.Helper()
	dir := t.TempDir()
	entries, err := os.ReadDir(example)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			continue // node_modules, __pycache__: left by a try of the example in place
		}
		text, err := os.ReadFile(filepath.Join(example, e.Name()))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, e.Name()), text, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// trial is an agent that speaks NATS, and an Odometer that counts.
type trial struct {
	env   *testEnv
	proxy *proxy
	agent agent
}

func newTrial(t *testing.T, a agent, e *testEnv) *trial {
	t.Helper()
	e.runServices(t, nil, "aggregator")
	return &trial{e, newProxy(t, e.Server.URL()), a}
}

var mails = []string{"mail-1", `mail "2" ä`, "mail-3"}

func (x *trial) start(t *testing.T, actSeconds string) *process {
	t.Helper()
	env := append([]string{"NATS_URL=" + x.proxy.url, "TENANT=" + x.env.tenant.String(), "ACT_SECONDS=" + actSeconds}, x.agent.env...)
	return start(t, x.agent.dir, env, append(x.agent.argv, mails...)...)
}

// killEverywhere kills the agent at each dangerous place.
func (x *trial) killEverywhere(t *testing.T) (first time.Time) {
	p := x.start(t, "3600")
	p.waitForLine("begun email:mail-1")
	p.kill()
	first = time.Now()
	if n := x.env.Messages(); n != 0 {
		t.Errorf("%d messages before anything was done", n)
	}

	x.proxy.drop(publications)
	p = x.start(t, "0")
	p.waitForLine("acted email:mail-1")
	next(t, x.proxy.passed, "a publication")
	p.kill()

	x.proxy.drop(answers)
	p = x.start(t, "3600") // the first act is done, and is not done again
	next(t, x.proxy.passed, "a publication")
	testenv.Eventually(t, "the stream has stored what it was sent", func() bool { return x.env.Messages() == 1 })
	p.kill()

	if x.agent.tear != nil {
		x.agent.tear(t)
	}
	x.proxy.drop(nothing)
	return first
}

// runToEnd lets the agent meet a full stream, finish, and be run once more.
func (x *trial) runToEnd(t *testing.T) {
	x.env.setFull(t, true)
	p := x.start(t, "0")
	p.waitForLine("not stored yet")
	x.env.setFull(t, false)
	if out, code := p.waitForEnd(); code != 0 {
		t.Errorf("exit code %d, printed %s", code, out)
	}
	before := len(x.proxy.published())
	out, code := x.start(t, "0").waitForEnd()
	if after := len(x.proxy.published()); code != 0 || after != before {
		t.Errorf("run again: exit code %d, %d more publications, printed %s", code, after-before, out)
	}
}

// checkPublications checks that a repeat is the same bytes, and what the message ids are.
func checkPublications(t *testing.T, published []publication) {
	t.Helper()
	payloads := map[string]string{}
	for _, p := range published {
		if want := publisher.MessageID(p.subject, []byte(p.payload)); p.messageID != want {
			t.Errorf("%s was sent as message %q, want %q", p.payload, p.messageID, want)
		}
		key, _, _ := strings.Cut(p.payload, "occurred_at")
		if first, ok := payloads[key]; ok && first != p.payload {
			t.Errorf("one event was sent as\n%s and as\n%s", first, p.payload)
		}
		payloads[key] = p.payload
	}
	if len(published) < len(payloads)+2 {
		t.Errorf("%d publications of %d events: the kills made no repeat", len(published), len(payloads))
	}
}
