package api

import (
	"bytes"
	"net/http"
	"strconv"
)

// wholeBytes is how much of an answer is held back until it is whole.
const wholeBytes = 1 << 20

// response holds an answer back until it is whole, so that what fails midway
// becomes a problem and not half an answer, and so that its length is known.
// An answer that flushes, or that is larger than wholeBytes, is sent as it comes.
type response struct {
	to        http.ResponseWriter
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
		return r.to.Write(part)
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
	_, err := r.to.Write(r.body.Bytes())
	r.body = bytes.Buffer{}
	return err
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
	if r.code() != http.StatusNotModified && r.code() != http.StatusNoContent {
		r.Header().Set("Content-Length", strconv.Itoa(r.body.Len()))
	}
	r.to.WriteHeader(r.code())
	_, _ = r.to.Write(r.body.Bytes())
}
