package api

import (
	"bytes"
	"net/http"
	"strconv"
	"time"
)

// takeTime is how long a client may take to accept what is written next: one
// that stops reading must not hold its answer, and what made it, for ever.
const takeTime = 30 * time.Second

// wholeBytes is how much of an answer is held back until it is whole.
const wholeBytes = 1 << 20

// response holds an answer back until it is whole, so that what fails midway
// becomes a problem and not half an answer, and so that its length is known.
// An answer that flushes, or that is larger than wholeBytes, is sent as it comes.
type response struct {
	to        http.ResponseWriter
	head      bool // the request's method is HEAD: what is written has no say about the length
	body      bytes.Buffer
	status    int
	streaming bool // the first byte was sent
	cut       bool // it must not look complete
}

// Header is the answer's.
func (r *response) Header() http.Header { return r.to.Header() }

// WriteHeader takes the status; the first one counts.
func (r *response) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
}

func (r *response) code() int {
	if r.status == 0 {
		return http.StatusOK
	}
	return r.status
}

// Write adds to the body.
func (r *response) Write(part []byte) (int, error) {
	if r.streaming {
		return r.send(part)
	}
	r.body.Write(part)
	if r.body.Len() > wholeBytes {
		return len(part), r.begin()
	}
	return len(part), nil
}

// begin sends what is held and holds nothing back any more.
func (r *response) begin() error {
	if r.streaming {
		return nil
	}
	r.streaming = true
	r.to.WriteHeader(r.code())
	_, err := r.send(r.body.Bytes())
	r.body = bytes.Buffer{}
	return err
}

// send writes to the client. Every answer sets its own deadline, so that none
// inherits that of an earlier one on the same connection.
func (r *response) send(part []byte) (int, error) {
	// A recorder in a test has no deadline to set.
	_ = http.NewResponseController(r.to).SetWriteDeadline(time.Now().Add(takeTime))
	return r.to.Write(part)
}

// FlushError sends what there is so far.
func (r *response) FlushError() error {
	if err := r.begin(); err != nil {
		return err
	}
	return http.NewResponseController(r.to).Flush()
}

// Unwrap is for http.ResponseController, which sets deadlines on it.
func (r *response) Unwrap() http.ResponseWriter { return r.to }

// reset forgets what was held back.
func (r *response) reset() {
	clear(r.Header())
	r.body.Reset()
	r.status = 0
}

// finish sends an answer that is whole. Whoever hung up does not miss it.
func (r *response) finish() {
	if r.streaming || r.cut {
		return
	}
	bodiless := r.code() == http.StatusNotModified || r.code() == http.StatusNoContent || r.head && r.body.Len() == 0
	if !bodiless {
		r.Header().Set("Content-Length", strconv.Itoa(r.body.Len()))
	}
	r.to.WriteHeader(r.code())
	_, _ = r.send(r.body.Bytes())
}
