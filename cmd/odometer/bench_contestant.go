package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"odometer"
	"odometer/aggregator"
	"odometer/cmd/internal/app"
	"odometer/cmd/internal/cli"
	"odometer/ingest"
)

// What a contestant in a process of its own can be.
const (
	aggregateRole = "aggregate" // the aggregator, with its default options
	naiveRole     = "naive"     // one message, one transaction
	readRole      = "read"      // reads and decodes the stream, and stores nothing
)

// Words between the races and a contestant: it says ready on its standard
// output and begins when it is told go; a reader says done. It ends when its
// standard input does, so also when the races are killed.
const (
	readyWord = "ready"
	goWord    = "go"
	doneWord  = "done"
)

// contestant is a hidden part of the command line: this program once more, so
// that its memory and its CPU time are its own.
type contestant struct {
	Role        string `hidden:""`
	DatabaseURL string `hidden:""`
	NATSURL     string `hidden:"" name:"nats-url"`
	Messages    int    `hidden:""` // that a reader reads
	Connections int    `hidden:""` // that the naive way takes
}

func (c *contestant) run(ctx context.Context, t *cli.Terminal) error {
	nc, err := nats.Connect(c.NATSURL)
	if err != nil {
		return fmt.Errorf("connect to NATS: %w", err)
	}
	defer nc.Close()
	begin, err := c.prepare(ctx, t, nc)
	if err != nil {
		return err
	}
	fmt.Fprintln(t.Out, readyWord)
	words := bufio.NewReader(os.Stdin)
	if word, err := words.ReadString('\n'); err != nil || word != goWord+"\n" {
		return nil // the races were given up
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	go func() {
		_, _ = io.Copy(io.Discard, words) // until the races want no more
		cancel()
	}()
	group.Go(func() error { return begin(ctx) })
	return group.Wait()
}

func (c *contestant) prepare(ctx context.Context, t *cli.Terminal, nc *nats.Conn) (func(context.Context) error, error) {
	stream, err := ingest.EnsureStream(ctx, cli.JetStream(nc), ingest.StreamConfig{})
	if err != nil {
		return nil, err
	}
	if c.Role == readRole {
		return func(ctx context.Context) error { return c.read(ctx, t, stream) }, err
	}
	pool, err := benchPool(ctx, c.DatabaseURL)
	if err != nil {
		return nil, err
	}
	if err := pool.Ping(ctx); err != nil {
		return nil, fmt.Errorf("connect to Postgres: %w", err)
	}
	if c.Role == naiveRole {
		return func(ctx context.Context) error {
			defer pool.Close()
			return c.countNaively(ctx, stream, pool)
		}, nil
	}
	app.LowerGCPercent()
	a, err := aggregator.New(aggregator.Options{
		Pool: pool, NATS: nc, Log: t.Log, Metrics: aggregator.NewMetrics(app.NewRegistry(), false),
	})
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		defer pool.Close()
		return a.Run(ctx)
	}, nil
}

// read reads the stream as the aggregator does, by one consumer without filter
// and acknowledgements, and decodes every message.
func (c *contestant) read(ctx context.Context, t *cli.Terminal, stream *ingest.Stream) error {
	consumer, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, InactiveThreshold: time.Minute,
	})
	if err != nil {
		return fmt.Errorf("read the stream: %w", err)
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessagesWithBytesLimit(5000, 8<<20))
	if err != nil {
		return fmt.Errorf("read the stream: %w", err)
	}
	defer messages.Stop()
	defer context.AfterFunc(ctx, messages.Stop)()
	for range c.Messages {
		msg, err := messages.Next()
		if err != nil {
			return fmt.Errorf("read the stream: %w", err)
		}
		if _, err := decodeStored(msg); err != nil {
			return err
		}
	}
	fmt.Fprintln(t.Out, doneWord)
	<-ctx.Done()
	return nil
}

// decodeStored decodes a message of the stream as the aggregator does.
func decodeStored(msg jetstream.Msg) (odometer.Event, error) {
	meta, err := msg.Metadata()
	if err != nil {
		return odometer.Event{}, fmt.Errorf("read the stream: %w", err)
	}
	kind, _, tenant, agent, _ := ingest.ParseStored(msg.Subject())
	e, rejection := ingest.Decode(&ingest.Message{
		Kind: kind, TenantToken: tenant, AgentToken: agent,
		Header: msg.Headers(), Data: msg.Data(), StoredAt: meta.Timestamp,
		Position: odometer.Position{Epoch: 1, Seq: int64(meta.Sequence.Stream)},
	})
	if rejection != nil {
		return e, fmt.Errorf("message %d: %w", meta.Sequence.Stream, rejection)
	}
	return e, nil
}

// runner is a contestant, as the races see it.
type runner struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	words *bufio.Reader
}

// enter starts a contestant and returns when it is ready to begin.
func (g *ground) enter(ctx context.Context, c contestant) (*runner, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	r := &runner{cmd: exec.CommandContext(ctx, self, "bench", "--log-level=warn",
		"--contestant-role", c.Role, "--contestant-database-url", c.DatabaseURL,
		"--contestant-nats-url", c.NATSURL, "--contestant-messages", strconv.Itoa(c.Messages),
		"--contestant-connections", strconv.Itoa(c.Connections))}
	r.cmd.Stderr = g.t.Err
	r.cmd.WaitDelay = 10 * time.Second
	if r.in, err = r.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	r.cmd.Cancel = r.in.Close
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	r.words = bufio.NewReader(out)
	if err := r.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a contestant: %w", err)
	}
	if err := r.expect(readyWord); err != nil {
		return nil, errors.Join(err, r.leave())
	}
	return r, nil
}

func (r *runner) pid() int { return r.cmd.Process.Pid }

// start fires the gun.
func (r *runner) start() error {
	if _, err := fmt.Fprintln(r.in, goWord); err != nil {
		return fmt.Errorf("start a contestant: %w", err)
	}
	return nil
}

// expect waits for the contestant's next word.
func (r *runner) expect(word string) error {
	if said, err := r.words.ReadString('\n'); err != nil || said != word+"\n" {
		return fmt.Errorf("a contestant said %q instead of %q", said, word)
	}
	return nil
}

// leave ends the contestant and waits until it has.
func (r *runner) leave() error {
	_ = r.in.Close()
	if err := r.cmd.Wait(); err != nil {
		return fmt.Errorf("a contestant failed: %w", err)
	}
	return nil
}
