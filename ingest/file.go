package ingest

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"odometer"
	"odometer/ingest/publisher"
)

const (
	// fileBatchesInFlight keeps the server's disk busy while lines are read.
	fileBatchesInFlight = 4

	// Bounds of a batch, which is held in memory.
	fileBatchLines = 1000
	fileBatchBytes = 4 << 20

	// reportedLines bounds the list of invalid lines; all are counted.
	reportedLines = 1000
)

// FileProgress is how far a file is published. Lines and bytes count without a
// gap from the beginning what is done: stored, or found invalid.
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
	Reason *odometer.Rejection
}

// PublishFile publishes events from NDJSON. A line is an event's payload with
// tenant_id and agent, which are required here: they make the subject. What is
// sent are the line's own bytes, without the white space around them. Blank
// lines are passed over; a line that is not a valid event is listed and the
// next is read.
//
// It sends atomic batches, several at a time, and holds no more than these in
// memory. When the stream refuses (see publisher.Publisher.Publish), it stops
// with that error and the number of the line up to which everything is stored
// or invalid. Running it again is safe: what is stored already is counted once.
//
// progress, if not nil, is called after each batch, never twice at a time.
func PublishFile(ctx context.Context, p *publisher.Publisher, r io.Reader, progress func(FileProgress)) (FileReport, error) {
	f := &filePublisher{p: p, progress: progress, finished: map[int]*fileBatch{}}
	err := f.read(ctx, newLineReader(r))
	f.inFlight.Wait()
	if err == nil {
		err = f.err
	}
	if err != nil {
		return f.report, fmt.Errorf("publish file, done up to line %d: %w; run it again, what is stored is counted once", f.report.Lines, err)
	}
	return f.report, nil
}

// fileBatch is a run of lines.
type fileBatch struct {
	number   int
	taken    int   // lines
	lastLine int   // in the file
	bytes    int64 // of the file, up to the end of the last line

	events  []publisher.Raw
	size    int // of the events' payloads
	invalid []InvalidLine
	results []publisher.Result // of events
}

// filePublisher is one call of PublishFile.
type filePublisher struct {
	p        *publisher.Publisher
	progress func(FileProgress)
	inFlight sync.WaitGroup

	mu       sync.Mutex // guards what follows
	finished map[int]*fileBatch
	report   FileReport
	next     int // the batch that the report waits for
	err      error
}

// read cuts the lines into batches and publishes them, until the end of the
// file or the first error.
func (f *filePublisher) read(ctx context.Context, lines *lineReader) error {
	slots := make(chan struct{}, fileBatchesInFlight)
	publish := func(b *fileBatch) {
		slots <- struct{}{}
		f.inFlight.Go(func() {
			defer func() { <-slots }()
			var err error
			b.results, err = f.p.PublishRawBatch(ctx, b.events)
			f.finish(b, err)
		})
	}
	b := new(fileBatch)
	for !f.failed() {
		line, err := lines.next()
		if errors.Is(err, io.EOF) {
			publish(b)
			return nil
		}
		if err != nil {
			publish(b)
			return fmt.Errorf("read line %d: %w", lines.number+1, err)
		}
		if b.full() {
			publish(b)
			b = &fileBatch{number: b.number + 1}
		}
		b.add(line, lines)
	}
	return nil
}

// full bounds a batch by its lines and not only by what it sends, so that
// blank, invalid and repeated lines make no batch without end.
func (b *fileBatch) full() bool {
	return b.taken == fileBatchLines || b.size+odometer.MaxPayloadBytes > fileBatchBytes
}

// add validates a line and adds it to the batch.
func (b *fileBatch) add(line line, from *lineReader) {
	b.taken++
	b.lastLine, b.bytes = from.number, from.read
	if line.blank() {
		return
	}
	raw, rejection := line.prepare(time.Now())
	if rejection != nil {
		b.invalid = append(b.invalid, InvalidLine{Number: from.number, Key: raw.Key, Reason: rejection})
		return
	}
	b.events = append(b.events, raw)
	b.size += len(raw.Payload)
}

// finish reports a batch when all before it are reported.
func (f *filePublisher) finish(b *fileBatch, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.err = cmp.Or(f.err, err)
		return
	}
	f.finished[b.number] = b
	for {
		b, ok := f.finished[f.next]
		if !ok {
			return
		}
		delete(f.finished, f.next)
		f.next++
		f.add(b)
	}
}

// add adds a batch to the report.
func (f *filePublisher) add(b *fileBatch) {
	r := &f.report
	if b.lastLine > 0 {
		r.Lines, r.Bytes = b.lastLine, b.bytes
	}
	r.Invalid += len(b.invalid)
	room := min(len(b.invalid), reportedLines-len(r.InvalidLines))
	r.InvalidLines = append(r.InvalidLines, b.invalid[:room]...)
	r.Stored += len(b.results)
	for _, result := range b.results {
		if result.Ack.Duplicate {
			r.Duplicates++
		}
	}
	if f.progress != nil {
		f.progress(r.FileProgress)
	}
}

func (f *filePublisher) failed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err != nil
}

// maxLineBytes is how much of a line is read; it is far above any valid event.
const maxLineBytes = 1 << 20

const jsonSpace = " \t\r\n"

// line is one line of a file, without the white space around it.
type line struct {
	bytes []byte
	long  bool // more than maxLineBytes, and cut
}

func (l line) blank() bool { return len(l.bytes) == 0 && !l.long }

// prepare validates a line, and returns its own bytes as what is to be sent.
func (l line) prepare(now time.Time) (publisher.Raw, *odometer.Rejection) {
	if l.long {
		return publisher.Raw{}, malformed("the line has more than %d bytes; allowed for an event: %d", maxLineBytes, odometer.MaxPayloadBytes)
	}
	raw, rejection := prepareLine(l.bytes, now)
	if rejection == nil {
		raw.Payload = bytes.Clone(raw.Payload)
	}
	return raw, rejection
}

// lineReader reads lines of any length in bounded memory.
type lineReader struct {
	from   *bufio.Reader
	long   []byte // a line that is larger than the reader's buffer
	number int    // of the line last read, from 1
	read   int64  // bytes up to the end of that line
}

func newLineReader(r io.Reader) *lineReader {
	return &lineReader{from: bufio.NewReaderSize(r, 128<<10)}
}

// next returns the next line, which is valid until the call after it, or io.EOF
// after the last one.
func (l *lineReader) next() (line, error) {
	part, err := l.from.ReadSlice('\n')
	l.read += int64(len(part))
	if !errors.Is(err, bufio.ErrBufferFull) {
		if err != nil && (err != io.EOF || len(part) == 0) {
			return line{}, err
		}
		l.number++
		return line{bytes: bytes.Trim(part, jsonSpace)}, nil
	}
	l.long = append(l.long[:0], part...)
	long := false
	for errors.Is(err, bufio.ErrBufferFull) {
		part, err = l.from.ReadSlice('\n')
		l.read += int64(len(part))
		if long = long || len(l.long)+len(part) > maxLineBytes; !long {
			l.long = append(l.long, part...)
		}
	}
	if err != nil && err != io.EOF {
		return line{}, err
	}
	l.number++
	return line{bytes: bytes.Trim(l.long, jsonSpace), long: long}, nil
}
