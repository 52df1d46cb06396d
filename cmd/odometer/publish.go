package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/google/uuid"
	"github.com/jedib0t/go-pretty/v6/progress"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"odometer"
	"odometer/ingest"
	"odometer/ingest/publisher"
)

type publishCmd struct {
	natsSettings
	streamSettings
	Tenant     *tenant    `help:"The tenant's UUID." placeholder:"UUID"`
	Agent      string     `help:"The agent's id." placeholder:"ID"`
	Action     string     `help:"The action type, one of the agent's in the catalogue." placeholder:"TYPE"`
	Quantity   *int64     `help:"Units; 1 when not given." placeholder:"N"`
	Key        *string    `help:"The idempotency key; a new one when not given." placeholder:"KEY"`
	OccurredAt *time.Time `help:"When it occurred; when the stream stores it when not given." placeholder:"TIME"`
	ResourceID *string    `help:"What it was done to." placeholder:"ID"`
	Metadata   string     `help:"A JSON object to keep with the event." placeholder:"JSON"`
	File       string     `short:"f" help:"Publish a file of events instead, - for standard input: a line is the JSON payload plus tenant_id and agent." placeholder:"FILE"`
	JSON       bool       `help:"Print JSON."`
}

// Run publishes and returns when the stream has stored what is valid.
func (c *publishCmd) Run(ctx context.Context, t *terminal) error {
	config, err := c.streamConfig()
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
	nc, err := c.connect("publish", false)
	if err != nil {
		return err
	}
	defer nc.Close()
	if err := ensureStream(ctx, nc, config); err != nil {
		return err
	}
	pub, err := publisher.New(nc)
	if err != nil {
		return err
	}
	ctx, stop := giveUpWithout(ctx, nc)
	defer stop()
	return send(ctx, t, pub)
}

// giveUpWithout ends the context when NATS has been away for too long.
func giveUpWithout(ctx context.Context, nc *nats.Conn) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		away := time.Duration(0)
		for pauseFor(ctx, time.Second) == nil {
			if away += time.Second; nc.IsConnected() {
				away = 0
			}
			if away >= patience {
				cancel(unreachable{fmt.Errorf("NATS has been away for %s: check that it runs, then run this again, which is safe", patience)})
			}
		}
	}()
	return ctx, func() { cancel(nil) }
}

func (c *publishCmd) checkFile() error {
	if c.Tenant != nil || c.Agent != "" || c.Action != "" || c.Quantity != nil || c.Key != nil || c.OccurredAt != nil || c.ResourceID != nil || c.Metadata != "" {
		return usagef("--file is given together with flags of a single event: the file's lines say it all, give one or the other")
	}
	if info, err := os.Stat(c.File); c.File != "-" && err == nil && info.IsDir() {
		return usagef("--file %s is a directory: give a file of NDJSON", c.File)
	}
	return nil
}

// ensureStream makes the stream when it is not there yet. Credentials that may
// only publish are not an obstacle: then the stream is somebody else's care.
func ensureStream(ctx context.Context, nc *nats.Conn, config ingest.StreamConfig) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := ingest.EnsureStream(ctx, mustJetStream(nc), config)
	switch {
	case err == nil, errors.Is(err, nats.ErrPermissionViolation), nc.LastError() != nil && errors.Is(nc.LastError(), nats.ErrPermissionViolation):
		return nil
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, nats.ErrNoResponders):
		return unreachable{fmt.Errorf("the NATS server at %s has no JetStream: start it with JetStream enabled", nc.ConnectedUrlRedacted())}
	}
	return err
}

func (c *publishCmd) checkOne() error {
	switch {
	case c.Tenant == nil:
		return usagef("--tenant is not set: give the tenant's UUID, or --file")
	case c.Agent == "":
		return usagef("--agent is not set")
	case c.Action == "":
		return usagef("--action is not set")
	case c.Quantity != nil && (*c.Quantity < 1 || *c.Quantity > odometer.MaxQuantity):
		return usagef("--quantity %d: want 1 to %d", *c.Quantity, odometer.MaxQuantity)
	case c.Key != nil && *c.Key == "":
		return usagef("--key is empty: give a key, or leave the flag out for a new one")
	case c.ResourceID != nil && *c.ResourceID == "":
		return usagef("--resource-id is empty: give an id, or leave the flag out for none")
	}
	return nil
}

// event is what the flags say.
func (c *publishCmd) event() publisher.Event {
	e := publisher.Event{
		Tenant: uuid.UUID(*c.Tenant), Agent: c.Agent, ActionType: c.Action,
		IdempotencyKey: uuid.NewString(),
	}
	if c.Key != nil {
		e.IdempotencyKey = *c.Key
	}
	if c.ResourceID != nil {
		e.ResourceID = *c.ResourceID
	}
	if c.Quantity != nil {
		e.Quantity = *c.Quantity
	}
	if c.OccurredAt != nil {
		e.OccurredAt = *c.OccurredAt
	}
	if c.Metadata != "" {
		e.Metadata = []byte(c.Metadata)
	}
	return e
}

func (c *publishCmd) one(ctx context.Context, t *terminal, pub *publisher.Publisher) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	e := c.event()
	ack, err := pub.Publish(ctx, e)
	var rejection *publisher.Rejection
	switch {
	case errors.As(err, &rejection):
		return usageError{fmt.Errorf("the event is not valid: %w", rejection)}
	case errors.Is(err, context.DeadlineExceeded):
		return unreachable{fmt.Errorf("%w: repeat the command with --key %s, which is safe", err, e.IdempotencyKey)}
	case err != nil:
		return err
	}
	if c.JSON {
		return t.json(map[string]any{"idempotency_key": e.IdempotencyKey, "stream_seq": ack.Seq, "duplicate": ack.Duplicate})
	}
	note := ""
	if ack.Duplicate {
		note = " (the stream held it already)"
	}
	fmt.Fprintf(t.out, "key %s sequence %d%s\n", e.IdempotencyKey, ack.Seq, note)
	return nil
}

func (c *publishCmd) file(ctx context.Context, t *terminal, pub *publisher.Publisher) error {
	in, size := io.Reader(os.Stdin), int64(0)
	if c.File != "-" {
		file, err := os.Open(c.File)
		if err != nil {
			return usagef("--file: %w", err)
		}
		defer file.Close()
		if info, err := file.Stat(); err == nil {
			size = info.Size()
		}
		in = file
	}
	bar := newBar(t, "publish", size)
	report, err := ingest.PublishFile(ctx, pub, in, func(p ingest.FileProgress) { bar.at(p.Bytes) })
	bar.done(err)
	if printed := c.printReport(t, report); printed != nil {
		return printed
	}
	var away unreachable
	switch {
	case errors.As(context.Cause(ctx), &away):
		return away
	case ctx.Err() != nil:
		return fmt.Errorf("interrupted after line %d: run it again, what is stored is counted once", report.Lines)
	case err != nil:
		return err
	case report.Invalid > 0:
		return errSaid
	}
	return nil
}

func (c *publishCmd) printReport(t *terminal, r ingest.FileReport) error {
	if c.JSON {
		return t.json(reportJSON(r))
	}
	fmt.Fprintf(t.out, "%d lines: %d stored (%d of them held already), %d invalid\n", r.Lines, r.Stored, r.Duplicates, r.Invalid)
	for _, line := range r.InvalidLines {
		fmt.Fprintf(t.out, "line %d: %v\n", line.Number, line.Reason)
	}
	if more := r.Invalid - len(r.InvalidLines); more > 0 {
		fmt.Fprintf(t.out, "and %d more invalid lines\n", more)
	}
	return nil
}

func reportJSON(r ingest.FileReport) any {
	type invalid struct {
		Line   int    `json:"line"`
		Key    string `json:"idempotency_key"`
		Reason string `json:"reason"`
		Detail string `json:"detail"`
	}
	lines := []invalid{}
	for _, l := range r.InvalidLines {
		lines = append(lines, invalid{Line: l.Number, Key: l.Key, Reason: string(l.Reason.Reason), Detail: l.Reason.Detail})
	}
	return map[string]any{
		"lines": r.Lines, "stored": r.Stored, "duplicates": r.Duplicates, "invalid": r.Invalid, "invalid_lines": lines,
	}
}

// bar is a progress bar on a terminal, and nothing elsewhere.
type bar struct {
	writer  progress.Writer
	tracker *progress.Tracker

	rendered chan struct{}
}

func newBar(t *terminal, what string, bytes int64) *bar {
	if !interactive(t.err) {
		return &bar{}
	}
	b := &bar{writer: progress.NewWriter(), tracker: &progress.Tracker{Message: what, Total: bytes, Units: progress.UnitsBytes}, rendered: make(chan struct{})}
	b.writer.SetOutputWriter(t.err)
	b.writer.SetAutoStop(true)
	b.writer.Style().Visibility.ETA = true
	b.writer.Style().Visibility.Speed = true
	b.writer.AppendTracker(b.tracker)
	go func() {
		defer close(b.rendered)
		b.writer.Render()
	}()
	return b
}

func (b *bar) at(bytes int64) {
	if b.tracker != nil {
		b.tracker.SetValue(bytes)
	}
}

func (b *bar) done(err error) {
	if b.tracker == nil {
		return
	}
	if err != nil {
		b.tracker.MarkAsErrored()
	} else {
		b.tracker.MarkAsDone()
	}
	<-b.rendered
}
