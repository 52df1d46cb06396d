package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"odometer"
	"odometer/cmd/internal/cli"
	"odometer/ingest"
	"odometer/ingest/publisher"
)

type publishCmd struct {
	cli.NATSSettings
	cli.StreamSettings
	Tenant     *cli.Tenant `help:"The tenant's UUID." placeholder:"UUID"`
	Agent      string      `help:"The agent's id." placeholder:"ID"`
	Action     string      `help:"The action type, one of the agent's in the catalogue." placeholder:"TYPE"`
	Quantity   *int64      `help:"Units; 1 when not given." placeholder:"N"`
	Key        *string     `help:"The idempotency key; a new one when not given." placeholder:"KEY"`
	OccurredAt *time.Time  `help:"When it occurred; when the stream stores it when not given." placeholder:"TIME"`
	ResourceID *string     `help:"What it was done to." placeholder:"ID"`
	Metadata   string      `help:"A JSON object to keep with the event." placeholder:"JSON"`
	File       string      `short:"f" help:"Publish a file of events instead, - for standard input: a line is the JSON payload plus tenant_id and agent." placeholder:"FILE"`
	JSON       bool        `help:"Print JSON."`
}

// Run publishes and returns when the stream has stored what is valid.
func (c *publishCmd) Run(ctx context.Context, t *cli.Terminal) error {
	config, err := c.StreamConfig()
	if err != nil {
		return err
	}
	send, check := c.one, c.checkOne
	if c.File != "" {
		send, check = c.file, c.checkFile
	}
	if err := check(); err != nil {
		return err
	}
	nc, pub, err := openPublisher(ctx, &c.NATSSettings, "publish", config)
	if err != nil {
		return err
	}
	defer nc.Close()
	ctx, stop := cli.CancelWithoutNATS(ctx, nc)
	defer stop()
	return send(ctx, t, pub)
}

func (c *publishCmd) checkFile() error {
	if c.Tenant != nil || c.Agent != "" || c.Action != "" || c.Quantity != nil || c.Key != nil || c.OccurredAt != nil || c.ResourceID != nil || c.Metadata != "" {
		return cli.Usagef("--file is given together with flags of a single event: the lines of the file hold all of that, give one or the other")
	}
	if info, err := os.Stat(c.File); c.File != "-" && err == nil && info.IsDir() {
		return cli.Usagef("--file %s is a directory: give a file of NDJSON", c.File)
	}
	return nil
}

func (c *publishCmd) checkOne() error {
	switch {
	case c.Tenant == nil:
		return cli.Usagef("--tenant is not set: give the tenant's UUID, or --file")
	case c.Agent == "":
		return cli.Usagef("--agent is not set")
	case c.Action == "":
		return cli.Usagef("--action is not set")
	case c.Quantity != nil && (*c.Quantity < 1 || *c.Quantity > odometer.MaxQuantity):
		return cli.Usagef("--quantity %d: want 1 to %d", *c.Quantity, odometer.MaxQuantity)
	case c.Key != nil && *c.Key == "":
		return cli.Usagef("--key is empty: give a key, or leave the flag out for a new one")
	case c.ResourceID != nil && *c.ResourceID == "":
		return cli.Usagef("--resource-id is empty: give an id, or leave the flag out for none")
	}
	return nil
}

// event is the event that the flags describe.
func (c *publishCmd) event() publisher.Event {
	e := publisher.Event{
		Tenant: uuid.UUID(*c.Tenant), Agent: c.Agent, ActionType: c.Action,
		IdempotencyKey: cli.ValueOr(c.Key, uuid.NewString()), ResourceID: cli.ValueOr(c.ResourceID, ""),
		Quantity: cli.ValueOr(c.Quantity, 0), OccurredAt: cli.ValueOr(c.OccurredAt, time.Time{}),
	}
	if c.Metadata != "" {
		e.Metadata = []byte(c.Metadata)
	}
	return e
}

func (c *publishCmd) one(ctx context.Context, t *cli.Terminal, pub *publisher.Publisher) error {
	e := c.event()
	ack, err := publishOne(ctx, pub, "event", e)
	if err != nil {
		return err
	}
	if c.JSON {
		return t.JSON(map[string]any{"idempotency_key": e.IdempotencyKey, "stream_seq": ack.Seq, "duplicate": ack.Duplicate})
	}
	note := ""
	if ack.Duplicate {
		note = " (the stream held it already)"
	}
	fmt.Fprintf(t.Out, "key %s sequence %d%s\n", e.IdempotencyKey, ack.Seq, note)
	return nil
}

func (c *publishCmd) file(ctx context.Context, t *cli.Terminal, pub *publisher.Publisher) error {
	in, size := io.Reader(os.Stdin), int64(0)
	if c.File != "-" {
		file, err := os.Open(c.File)
		if err != nil {
			return cli.Usagef("--file: %w", err)
		}
		defer file.Close()
		if info, err := file.Stat(); err == nil {
			size = info.Size()
		}
		in = file
	}
	progress := cli.ByteProgress(t)
	report, err := ingest.PublishFile(ctx, pub, in, func(p ingest.FileProgress) { progress.At("publish", p.Bytes, size) })
	progress.Done(err)
	if printed := c.printReport(t, report); printed != nil {
		return printed
	}
	var away cli.Unreachable
	switch {
	case errors.As(context.Cause(ctx), &away):
		return away
	case ctx.Err() != nil:
		return fmt.Errorf("interrupted after line %d: run it again, what is stored is counted once", report.Lines)
	case err != nil:
		return err
	case report.Invalid > 0:
		return cli.ErrFindings
	}
	return nil
}

func (c *publishCmd) printReport(t *cli.Terminal, r ingest.FileReport) error {
	if c.JSON {
		r.InvalidLines = append([]ingest.InvalidLine{}, r.InvalidLines...)
		return t.JSON(r)
	}
	fmt.Fprintf(t.Out, "%d lines: %d stored (%d of them held already), %d invalid\n", r.Lines, r.Stored, r.Duplicates, r.Invalid)
	for _, line := range r.InvalidLines {
		fmt.Fprintf(t.Out, "line %d: %v\n", line.Number, line.Rejection)
	}
	if more := r.Invalid - len(r.InvalidLines); more > 0 {
		fmt.Fprintf(t.Out, "and %d more invalid lines\n", more)
	}
	return nil
}

// openPublisher connects to the stream, which it creates when it is missing.
func openPublisher(ctx context.Context, s *cli.NATSSettings, command string, config ingest.StreamConfig) (*nats.Conn, *publisher.Publisher, error) {
	nc, err := s.Connect(command, false)
	if err != nil {
		return nil, nil, err
	}
	err = cli.EnsureStream(ctx, nc, config)
	var pub *publisher.Publisher
	if err == nil {
		pub, err = publisher.New(nc)
	}
	if err != nil {
		nc.Close()
		return nil, nil, err
	}
	return nc, pub, nil
}

// publishOne publishes the event of a command line; what names it in errors.
func publishOne(ctx context.Context, pub *publisher.Publisher, what string, e publisher.Event) (publisher.Ack, error) {
	ctx, cancel := context.WithTimeout(ctx, cli.DependencyTimeout)
	defer cancel()
	ack, err := pub.Publish(ctx, e)
	var rejection *publisher.Rejection
	switch {
	case errors.As(err, &rejection):
		return ack, cli.UsageError{Err: fmt.Errorf("the %s is not valid: %w", what, rejection)}
	case errors.Is(err, context.DeadlineExceeded):
		return ack, cli.Unreachable{Err: fmt.Errorf("%w: repeat the command with --key %s, which is safe", err, e.IdempotencyKey)}
	}
	return ack, err
}
