package ingest

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"odometer"
)

const (
	// fileBatchesInFlight keeps the server's disk busy while lines are read.
	fileBatchesInFlight = 4

	// reportedLines bounds the list of invalid lines; all are counted.
	reportedLines = 1000
)

// FileProgress is how far a file is published. Lines and bytes count what is
// settled without a gap from the beginning: stored, or found invalid.
type FileProgress struct {
	Lines      int
	Bytes      int64
	Stored     int // messages in the stream, duplicates included
	Duplicates int // of these, what the stream held already within its short window
	Invalid    int
}

// FileReport is what became of a file.
type FileReport struct {
	FileProgress
	InvalidLines []InvalidLine // the first 1,000, in order
}

// InvalidLine is a line that was not published.
type InvalidLine struct {
	Number int    // from 1, blank lines counted
	Key    string // idempotency_key, "" when it could not be read
	Reason error  // an *odometer.Rejection
}

// PublishFile publishes events from NDJSON. A line is an event's payload with
// tenant_id and agent, which are required here: they make the subject. What is
// sent are the line's own bytes, without the white space around them. Blank
// lines are passed over; a line that is not a valid event is listed and the
// next is read.
//
// It sends atomic batches, several at a time, and holds no more than these in
// memory. When the stream refuses (see Publisher.Publish), it stops with that
// error and the number of the line up to which everything is settled. Running
// it again is safe: what is stored already is counted once.
//
// progress, if not nil, is called after each batch, never twice at a time.
func PublishFile(ctx context.Context, p *Publisher, r io.Reader, progress func(FileProgress)) (FileReport, error) {
	run := &fileRun{p: p, progress: progress, settled: map[int]*fileBatch{}}
	err := run.read(ctx, newLineReader(r))
	run.inFlight.Wait()
	if err == nil {
		err = run.refusal
	}
	if err != nil {
		return run.report, fmt.Errorf("publish file, settled up to line %d: %w; run it again, what is stored is counted once", run.report.Lines, err)
	}
	return run.report, nil
}

// fileBatch is a run of lines: a batch of events and where the lines end.
type fileBatch struct {
	batch
	number  int
	taken   int   // lines
	lines   int   // in the file, up to the last of this batch
	bytes   int64 // likewise
	invalid []InvalidLine
	outcome []*Result
}

// fileRun is one call of PublishFile.
type fileRun struct {
	p        *Publisher
	progress func(FileProgress)
	inFlight sync.WaitGroup

	mu      sync.Mutex // guards what follows
	settled map[int]*fileBatch
	report  FileReport
	next    int // the batch that the report waits for
	refusal error
}

// read cuts the lines into batches and starts them, until the end of the file
// or the first refusal.
func (run *fileRun) read(ctx context.Context, lines *lineReader) error {
	slots := make(chan struct{}, fileBatchesInFlight)
	start := func(b *fileBatch) {
		slots <- struct{}{}
		run.inFlight.Go(func() {
			defer func() { <-slots }()
			run.p.sendBatch(ctx, &b.batch)
			run.settle(b)
		})
	}
	b := &fileBatch{batch: *newBatch(batchMessages)}
	for !run.refused() {
		line, err := lines.next()
		if err == io.EOF {
			start(b)
			return nil
		}
		if err != nil {
			start(b)
			return fmt.Errorf("read line %d: %w", lines.number+1, err)
		}
		if b.complete() {
			start(b)
			b = &fileBatch{batch: *newBatch(batchMessages), number: b.number + 1}
		}
		b.take(line, lines)
	}
	return nil
}

// complete bounds a batch by its lines and not only by what it sends, so that
// blank, invalid and repeated lines make no batch without end.
func (b *fileBatch) complete() bool {
	return b.taken == batchMessages || b.full(odometer.MaxPayloadBytes)
}

// take judges a line and adds it to the batch.
func (b *fileBatch) take(line line, from *lineReader) {
	b.taken++
	b.lines, b.bytes = from.number, from.read
	if line.blank() {
		return
	}
	o, rejection := line.address(time.Now())
	if rejection != nil {
		b.invalid = append(b.invalid, InvalidLine{Number: from.number, Key: o.key, Reason: rejection})
		return
	}
	result := new(Result)
	b.outcome = append(b.outcome, result)
	b.add(o, result)
}

// settle books a batch, and reports it when all before it are booked.
func (run *fileRun) settle(b *fileBatch) {
	run.mu.Lock()
	defer run.mu.Unlock()
	for _, r := range b.outcome {
		if r.Err != nil {
			if run.refusal == nil {
				run.refusal = r.Err
			}
			return
		}
	}
	run.settled[b.number] = b
	for {
		b, ok := run.settled[run.next]
		if !ok {
			return
		}
		delete(run.settled, run.next)
		run.next++
		run.book(b)
	}
}

func (run *fileRun) book(b *fileBatch) {
	r := &run.report
	if b.lines > 0 {
		r.Lines, r.Bytes = b.lines, b.bytes
	}
	r.Invalid += len(b.invalid)
	room := min(len(b.invalid), reportedLines-len(r.InvalidLines))
	r.InvalidLines = append(r.InvalidLines, b.invalid[:room]...)
	r.Stored += len(b.outcome)
	for _, result := range b.outcome {
		if result.Ack.Duplicate {
			r.Duplicates++
		}
	}
	if run.progress != nil {
		run.progress(r.FileProgress)
	}
}

func (run *fileRun) refused() bool {
	run.mu.Lock()
	defer run.mu.Unlock()
	return run.refusal != nil
}
