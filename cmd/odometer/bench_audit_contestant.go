package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"odometer/audit"
	"odometer/cmd/internal/app"
	"odometer/cmd/internal/cli"
	"odometer/ingest"
)

// What a process of the audit race can be.
const (
	auditRole   = "audit"   // the audit, as odometer audit makes it
	orderedRole = "ordered" // reads the stream in order, and looks into no message
)

// audits reports whether the contestant is one of the audit race.
func (c *contestant) audits() bool { return c.Role == auditRole || c.Role == orderedRole }

// auditTimes are how long each side of an audit took.
type auditTimes struct {
	Stream time.Duration `json:"stream"` // stream and events
	Sums   time.Duration `json:"sums"`   // events and counters
}

// runAuditing takes part in the audit race.
func (c *contestant) runAuditing(ctx context.Context, t *cli.Terminal) error {
	begin, done, err := c.prepareAudit(ctx, t)
	if err != nil {
		return err
	}
	defer done()
	fmt.Fprintln(t.Out, readyWord)
	words := bufio.NewReader(os.Stdin)
	if word, err := words.ReadString('\n'); err != nil || word != goWord+"\n" {
		return nil // the races were given up
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, words) // until the races want no more
		cancel()
	}()
	said, err := begin(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintln(t.Out, said)
	<-ctx.Done()
	return nil
}

// prepareAudit connects. What it returns does the work, and then has a word to say.
func (c *contestant) prepareAudit(ctx context.Context, t *cli.Terminal) (begin func(context.Context) (string, error), done func(), err error) {
	if c.Role == orderedRole {
		nc, err := nats.Connect(c.NATSURL)
		if err != nil {
			return nil, nil, fmt.Errorf("connect to NATS: %w", err)
		}
		return func(ctx context.Context) (string, error) { return doneWord, c.readInOrder(ctx, nc) }, nc.Close, nil
	}
	settings := auditSettings{DatabaseSettings: cli.DatabaseSettings{DatabaseURL: c.DatabaseURL}, NATSSettings: cli.NATSSettings{NATSURL: c.NATSURL}}
	options, done, err := settings.open(ctx, t)
	if err != nil {
		return nil, nil, err
	}
	return func(ctx context.Context) (string, error) {
		found, err := c.audit(ctx, options)
		if err != nil {
			return "", err
		}
		said, err := json.Marshal(found)
		return string(said), err
	}, done, nil
}

// orderedAtOnce is how many messages one request asks for, as the audit does.
const orderedAtOnce = 8000

// readInOrder is an ordered consumer, as the NATS client has it: it looks at
// each message's place in the stream, and at nothing else.
func (c *contestant) readInOrder(ctx context.Context, nc *nats.Conn) error {
	consumer, err := cli.JetStream(nc).OrderedConsumer(ctx, ingest.StreamName, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return fmt.Errorf("read the stream: %w", err)
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(orderedAtOnce))
	if err != nil {
		return fmt.Errorf("read the stream: %w", err)
	}
	defer messages.Stop()
	defer context.AfterFunc(ctx, messages.Stop)()
	for range c.Messages {
		if _, err := messages.Next(); err != nil {
			return fmt.Errorf("read the stream: %w", err)
		}
	}
	return nil
}

// audit compares all books, and has no times to tell unless each message is an
// event, each counter is its sum, and nothing is left open.
func (c *contestant) audit(ctx context.Context, o audit.Options) (auditTimes, error) {
	began := map[string]time.Time{} // each step
	r, err := audit.Run(ctx, o, audit.Scope{}, func(p audit.Progress) {
		if _, known := began[p.Step]; !known {
			began[p.Step] = time.Now()
		}
	})
	if err != nil {
		return auditTimes{}, err
	}
	stream, sums, next := r.Comparisons[0], r.Comparisons[1], r.Comparisons[2]
	switch {
	case r.Different > 0:
		return auditTimes{}, fmt.Errorf("WRONG BOOKS: %s", app.DifferenceLine(&r.Differences[0]))
	case stream.Equal != int64(c.Messages), r.Stream.Events != int64(c.Messages), sums.Equal == 0,
		r.Stream.Waiting+stream.Unsettled+stream.Unknown+sums.Unsettled+sums.Unknown > 0:
		return auditTimes{}, fmt.Errorf("WRONG BOOKS: %d of %d messages are events, %d counters agree, %q", r.Stream.Events, c.Messages, sums.Equal, r.Notes)
	case began[stream.Name].IsZero(), began[sums.Name].IsZero(), began[next.Name].IsZero():
		return auditTimes{}, fmt.Errorf("the audit has not said when its steps began: %v", began)
	}
	return auditTimes{
		Stream: began[sums.Name].Sub(began[stream.Name]),
		Sums:   began[next.Name].Sub(began[sums.Name]),
	}, nil
}
