package ingest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
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
	Lines      int   `json:"lines"`
	Bytes      int64 `json:"-"`
	Stored     int   `json:"stored"`     // messages in the stream, duplicates included
	Duplicates int   `json:"duplicates"` // of these, what the stream held already within its short window
	Invalid    int   `json:"invalid"`
}

// FileReport is what became of a file.
type FileReport struct {
	FileProgress
	InvalidLines []InvalidLine `json:"invalid_lines"` // the first 1,000, in order
}

// InvalidLine is a line that was not published.
type InvalidLine struct {
	Number int    `json:"line"`            // from 1, blank lines counted
	Key    string `json:"idempotency_key"` // "" when it could not be read

	*odometer.Rejection
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
	if progress == nil {
		progress = func(FileProgress) {}
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	// A batch is in the channel from the start of its publishing on: so many are
	// in flight, and their results come in the file's order.
	batches := make(chan *fileBatch, fileBatchesInFlight-1)
	go readBatches(ctx, p, newLineReader(r), batches)
	var report FileReport
	var err error
	for b := range batches {
		<-b.published
		switch {
		case err != nil: // an earlier batch failed
		case b.err != nil:
			err = b.err
			stop()
		default:
			report.add(b)
			progress(report.FileProgress)
			err = b.readErr
		}
	}
	if err != nil {
		return report, fmt.Errorf("publish file, done up to line %d: %w; run it again, what is stored is counted once", report.Lines, err)
	}
	return report, nil
}

// fileBatch is a run of lines.
type fileBatch struct {
	lines    int   // of the batch
	lastLine int   // of the file
	bytes    int64 // of the file, up to the end of the last line
	events   []publisher.Raw
	size     int // of the events' payloads
	invalid  []InvalidLine
	readErr  error // why no line follows; nil at the end of the file

	published chan struct{} // closed when what follows is set
	results   []publisher.Result
	err       error
}

// readBatches cuts the lines into batches, validates and publishes them, until
// the end of the file or ctx.
func readBatches(ctx context.Context, p *publisher.Publisher, lines *lineReader, batches chan<- *fileBatch) {
	defer close(batches)
	for more := true; more; {
		b := &fileBatch{published: make(chan struct{}), readErr: ctx.Err()}
		more = b.readErr == nil && b.read(lines)
		go func() {
			defer close(b.published)
			b.results, b.err = p.PublishRawBatch(ctx, b.events)
		}()
		batches <- b
	}
}

// read fills the batch, and reports whether lines may follow. It bounds a batch
// by its lines and not only by what it sends, so that blank, invalid and
// repeated lines make no batch without end.
func (b *fileBatch) read(from *lineReader) (more bool) {
	for b.lines < fileBatchLines && b.size+odometer.MaxPayloadBytes <= fileBatchBytes {
		line, err := from.next()
		if errors.Is(err, io.EOF) {
			return false
		}
		if err != nil {
			b.readErr = fmt.Errorf("read line %d: %w", from.number+1, err)
			return false
		}
		b.lines++
		b.lastLine, b.bytes = from.number, from.read
		if line.blank() {
			continue
		}
		raw, rejection := line.prepare(time.Now())
		if rejection != nil {
			b.invalid = append(b.invalid, InvalidLine{Number: from.number, Key: raw.Key, Rejection: rejection})
			continue
		}
		b.events = append(b.events, raw)
		b.size += len(raw.Payload)
	}
	return true
}

func (r *FileReport) add(b *fileBatch) {
	if b.lines > 0 {
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
