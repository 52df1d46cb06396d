package api

import (
	"bytes"
	"net/http"
	"strconv"
	"time"
)

// writeTimeout is how long a client may take to accept the next write. Without
// it a client that stops reading would hold its answer in memory for ever.
const writeTimeout = 30 * time.Second

// maxBuffered is how many bytes of an answer are buffered until it is complete.
const maxBuffered = 1 << 20

// response buffers an answer until it is complete, so that a failure midway
// becomes a problem and not half an answer, and so that its length is known.
// An answer that flushes, or that is larger than maxBuffered, is sent as it comes.
type response struct {
	to        http.ResponseWriter
	head      bool // the request's method is HEAD: the length of the body says nothing
	body      bytes.Buffer
	status    int
	streaming bool // the first byte was sent
	cut       bool // it must not look complete
}

// Header is the answer's.
func (r *response) Header() http.Header { return r.to.Header() }

// WriteHeader sets the status; the first one counts.
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
	if r.body.Len() > maxBuffered {
		return len(part), r.begin()
	}
	return len(part), nil
}

// begin sends what is buffered and stops buffering.
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
	_ = http.NewResponseController(r.to).SetWriteDeadline(time.Now().Add(writeTimeout))
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

// reset drops what was buffered.
func (r *response) reset() {
	clear(r.Header())
	r.body.Reset()
	r.status = 0
}

// finish sends a complete answer.
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
