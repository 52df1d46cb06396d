package ingest

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"time"

	"odometer"
)

// maxLineBytes is how much of a line is read; it is far above any valid event.
const maxLineBytes = 1 << 20

const jsonSpace = " \t\r\n"

// line is one line of a file, without the white space around it.
type line struct {
	bytes []byte
	long  bool // more than maxLineBytes, and cut
}

func (l line) blank() bool { return len(l.bytes) == 0 && !l.long }

// address validates a line, takes the subject from it, and returns what is to
// be sent: the line's own bytes.
func (l line) address(now time.Time) (outgoing, *odometer.Rejection) {
	if l.long {
		return outgoing{}, malformed("the line has more than %d bytes; allowed for an event: %d", maxLineBytes, odometer.MaxPayloadBytes)
	}
	var d document
	if r := d.read(l.bytes); r != nil {
		return outgoing{}, r
	}
	r, rejection := d.addressee()
	if rejection != nil {
		return outgoing{key: d.key(idempotencyKey)}, rejection
	}
	r.Payload = bytes.Clone(l.bytes)
	return d.address(r, now)
}

// addressee takes tenant and agent from the payload, for a sender that has no
// subject.
func (d *document) addressee() (Raw, *odometer.Rejection) {
	text, r := d.text(tenantID)
	if r != nil {
		return Raw{}, r
	}
	tenant, ok := odometer.ParseTenant(text)
	if !ok {
		return Raw{}, d.refuse(tenantID, "a UUID in canonical lower-case form")
	}
	agent, r := d.agent()
	return Raw{Tenant: tenant, Agent: agent}, r
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
