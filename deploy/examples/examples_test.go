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

	"github.com/nats-io/nats.go/jetstream"

	"odometer/ingest/publisher"
)

func TestAnActionIsCountedOnceHoweverOftenTheAgentIsKilled(t *testing.T) {
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
			x := newTrial(t, example.prepare(t), newHouse(t, binary))
			killed := x.killEverywhere(t)
			x.comesToItsEnd(t)
			checkWire(t, x.published())
			x.countsOnce(t, "email:mail-1", `email:mail "2" ä`, "email:mail-3")
			if e := x.stored(t)["email:mail-1"]; e.OccurredAt.After(killed) {
				t.Errorf("published was an event of %s, not the one that was stored before the act, at the latest at %s", e.OccurredAt, killed)
			}
		})
	}
	t.Run("curl", func(t *testing.T) {
		t.Parallel()
		s := newShell(t, binary)
		stored := s.killEverywhere(t)
		s.comesToItsEnd(t, stored)
		s.meetsRefusals(t)
		s.countsOnce(t, "email:mail-1", "email:mail-2", "email:mail-3", "email:mail-4")
	})
}

// agent is an example, ready to be run.
type agent struct {
	dir  string
	argv []string
	env  []string
	tear func(*testing.T) // leaves its journal as a crash in the midst of writing would
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
			continue // node_modules, __pycache__: somebody tried the example in place
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

// trial is an agent that speaks NATS, with a house that counts.
type trial struct {
	*house
	*wire
	agent
}

func newTrial(t *testing.T, a agent, h *house) *trial {
	t.Helper()
	h.serves(t, nil, "aggregator")
	return &trial{h, newWire(t, h.nats.URL()), a}
}

var mails = []string{"mail-1", `mail "2" ä`, "mail-3"}

func (x *trial) begins(t *testing.T, actSeconds string) *process {
	t.Helper()
	env := append([]string{"NATS_URL=" + x.wire.url, "TENANT=" + x.tenant.String(), "ACT_SECONDS=" + actSeconds}, x.env...)
	return start(t, x.dir, env, append(x.argv, mails...)...)
}

// killEverywhere kills the agent at each dangerous place.
func (x *trial) killEverywhere(t *testing.T) (first time.Time) {
	p := x.begins(t, "3600")
	p.awaits("begun email:mail-1")
	p.kill()
	first = time.Now()
	if n := x.messages(t); n != 0 {
		t.Errorf("%d messages before anything was done", n)
	}

	x.lose(publications)
	p = x.begins(t, "0")
	p.awaits("acted email:mail-1")
	next(t, x.passed, "a publication")
	p.kill()

	x.lose(answers)
	p = x.begins(t, "3600") // the first act is done, and is not done again
	next(t, x.passed, "a publication")
	waitFor(t, "the stream has stored what it was sent", func() bool { return x.messages(t) == 1 })
	p.kill()

	if x.tear != nil {
		x.tear(t)
	}
	x.lose(nothing)
	return first
}

// comesToItsEnd lets the agent meet a full stream, finish, and be run once more.
func (x *trial) comesToItsEnd(t *testing.T) {
	x.full(t, true)
	p := x.begins(t, "0")
	p.awaits("not stored yet")
	x.full(t, false)
	if out, code := p.ends(); code != 0 {
		t.Errorf("exit code %d, printed %s", code, out)
	}
	before := len(x.published())
	out, code := x.begins(t, "0").ends()
	if after := len(x.published()); code != 0 || after != before {
		t.Errorf("run again: exit code %d, %d more publications, printed %s", code, after-before, out)
	}
}

// full makes the stream refuse what is new, or take it again.
func (h *house) full(t *testing.T, full bool) {
	t.Helper()
	js, err := jetstream.New(h.nats.Connect(t))
	if err != nil {
		t.Fatal(err)
	}
	info, err := h.stream.Info(within(t))
	if err != nil {
		t.Fatal(err)
	}
	config := info.Config
	config.MaxBytes = -1
	if full {
		config.MaxBytes = int64(info.State.Bytes)
	}
	if _, err := js.UpdateStream(within(t), config); err != nil {
		t.Fatal(err)
	}
}

// checkWire checks that a repeat is the same bytes, and what the message ids are.
func checkWire(t *testing.T, published []publication) {
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
