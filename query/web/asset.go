package web

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// asset is one file with the headers it is served with, as it is and
// compressed.
type asset struct {
	header http.Header
	plain  encoded
	gzip   encoded // content nil: compressing gains nothing
}

// encoded is a representation of a file. Each has a tag of its own, as their
// bytes differ.
type encoded struct {
	content []byte
	tag     string
}

func newAsset(content, compressed []byte, header http.Header) *asset {
	sum := sha256.Sum256(content)
	tag := base64.RawURLEncoding.EncodeToString(sum[:12])
	a := &asset{header: header, plain: encoded{content, `"` + tag + `"`}}
	if len(compressed) < len(content) {
		a.gzip = encoded{compressed, `"` + tag + `-gzip"`}
	}
	return a
}

// ServeHTTP answers with the file, or 304 when the client has it.
func (a *asset) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	for name, values := range a.header {
		h[name] = values
	}
	h.Set("Vary", "Accept-Encoding")
	out := a.plain
	if a.gzip.content != nil && acceptsGzip(r.Header.Values("Accept-Encoding")) {
		out = a.gzip
		h.Set("Content-Encoding", "gzip")
	}
	h.Set("ETag", out.tag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(out.content))
}

// acceptsGzip reads the lines of an Accept-Encoding header (RFC 9110, 12.5.3).
// Where they do not name gzip, "*" speaks for it.
func acceptsGzip(lines []string) bool {
	accepted := false
	for item := range strings.SplitSeq(strings.Join(lines, ","), ",") {
		coding, weight, _ := strings.Cut(item, ";")
		switch strings.ToLower(strings.TrimSpace(coding)) {
		case "gzip", "x-gzip":
			return !refused(weight)
		case "*":
			accepted = !refused(weight)
		}
	}
	return accepted
}

// refused reports whether a coding's weight is 0.
func refused(weight string) bool {
	name, value, _ := strings.Cut(strings.TrimSpace(weight), "=")
	q, err := strconv.ParseFloat(value, 64)
	return err == nil && q == 0 && strings.EqualFold(name, "q")
}

// compress is the content as gzip, as small as it gets.
func compress(content []byte) []byte {
	var buf bytes.Buffer
	// Neither a valid level nor a buffer fails.
	z, _ := gzip.NewWriterLevel(&buf, gzip.BestCompression)
	_, _ = z.Write(content)
	_ = z.Close()
	return buf.Bytes()
}
