package publisher_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"odometer/ingest"
	"odometer/ingest/publisher"
)

// entry is an event in the journal and how far its action has come.
type entry struct {
	State string // "begun", "acted", "published"
	Event publisher.Event
}

// journal is a file to which lines are only added; the last of a key holds.
type journal struct {
	file    *os.File
	entries []entry
	index   map[string]int // by idempotency key
}

func openJournal(path string) (*journal, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	// A line without its end was cut off by a crash: no action followed it.
	text = text[:bytes.LastIndexByte(text, '\n')+1]
	j := &journal{file: file, index: map[string]int{}}
	for line := range bytes.Lines(text) {
		var e entry
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("read journal %s: %w", path, err)
		}
		j.note(e)
	}
	return j, file.Truncate(int64(len(text)))
}

// write returns when the entry is on the disk.
func (j *journal) write(e entry) error {
	line, err := json.Marshal(e)
	if err == nil {
		_, err = j.file.Write(append(line, '\n'))
	}
	if err = errors.Join(err, j.file.Sync()); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	j.note(e)
	return nil
}

func (j *journal) note(e entry) {
	at, known := j.index[e.Event.IdempotencyKey]
	if !known {
		at = len(j.entries)
		j.entries = append(j.entries, entry{})
		j.index[e.Event.IdempotencyKey] = at
	}
	j.entries[at] = e
}

// worker is an agent that processes mails.
type worker struct {
	journal   *journal
	publisher *publisher.Publisher
}

// process does one piece of work, unless the journal knows it already.
func (w *worker) process(ctx context.Context, mail string) error {
	event := publisher.Event{
		Tenant:         uuid.MustParse("0b6e1a52-7f3c-4a60-9d0a-61a3f0b7c2d5"),
		Agent:          "inbox",
		ActionType:     "email_processed",
		IdempotencyKey: "email:" + mail,
		OccurredAt:     time.Now(),
	}
	if _, known := w.journal.index[event.IdempotencyKey]; known {
		return nil
	}
	if err := w.journal.write(entry{"begun", event}); err != nil {
		return err
	}
	return w.finish(ctx)
}

// finish brings everything in the journal to its end. After a restart it is all
// the recovery there is.
func (w *worker) finish(ctx context.Context) error {
	for _, e := range w.journal.entries {
		if e.State == "begun" {
			// A crash during the act repeats it: hand the key on to what is
			// called, as that one's idempotency key.
			fmt.Println("act on", e.Event.IdempotencyKey)
			e.State = "acted"
			if err := w.journal.write(e); err != nil {
				return err
			}
		}
		if e.State == "acted" {
			if _, err := w.publisher.Publish(ctx, e.Event); err != nil {
				return err // it stays in the journal
			}
			fmt.Println("published", e.Event.IdempotencyKey)
			e.State = "published"
			if err := w.journal.write(e); err != nil {
				return err
			}
		}
	}
	return nil
}

// connect makes a worker that has the journal at path.
func connect(url, path string) (*worker, *nats.Conn) {
	nc, err := nats.Connect(url, nats.MaxReconnects(-1))
	if err != nil {
		log.Fatal(err)
	}
	pub, err := publisher.New(nc)
	if err != nil {
		log.Fatal(err)
	}
	journal, err := openJournal(path)
	if err != nil {
		log.Fatal(err)
	}
	return &worker{journal, pub}, nc
}

// An agent that stores each event in a journal on the disk before it acts, so
// that it is counted once whenever the agent dies.
func Example_journal() {
	url, stop := exampleServer(ingest.StreamConfig{})
	defer stop()
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "journal.ndjson")
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	// The agent acts, loses its connection before it can publish, and dies.
	agent, nc := connect(url, path)
	nc.Close()
	if err := agent.process(ctx, "msg-1"); err != nil {
		fmt.Println("dies")
	}

	// Its next life publishes that event before it goes on.
	agent, nc = connect(url, path)
	defer nc.Close()
	if err := agent.finish(ctx); err != nil {
		log.Fatal(err)
	}
	for _, mail := range []string{"msg-1", "msg-2"} {
		if err := agent.process(ctx, mail); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// act on email:msg-1
	// dies
	// published email:msg-1
	// act on email:msg-2
	// published email:msg-2
}
