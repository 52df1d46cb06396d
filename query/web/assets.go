package web

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	swagger "github.com/swaggest/swgui/v5/static"
)

//go:embed dist
var dist embed.FS

// What a page may do. With trusted types the browser never turns text into
// markup or script, so nothing a tenant sends can become either. Swagger UI
// needs markup, and has its icons in data: URLs.
const (
	pagePolicy = "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; " +
		"require-trusted-types-for 'script'; trusted-types 'none'"
	docsPolicy = "default-src 'self'; img-src 'self' data:; " +
		"object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)

// How long a browser may use a file without a request. Scripts in customers'
// pages: a few minutes, so that a new version arrives soon. Our own pages
// request it each time, which costs them a 304.
const (
	cachedForMinutes = "public, max-age=300"
	askEachTime      = "no-cache"
)

var contentTypes = map[string]string{
	".html": "text/html; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".png":  "image/png",
	".svg":  "image/svg+xml",
}

const docsPath = "/docs"

// assets are the files by their path. The demo's dashboard also learns where its
// tokens are.
func assets(demo bool) map[string]*asset {
	index := read(dist, "dist/index.html")
	if demo {
		index = withSessions(index)
	}
	return map[string]*asset{
		"/{$}":                     page(index, pagePolicy),
		"/assets/dashboard.js":     own("dist/assets/dashboard.js"),
		"/assets/dashboard.css":    own("dist/assets/dashboard.css"),
		"/assets/favicon.svg":      own("dist/assets/favicon.svg"),
		"/odometer-usage.js":       shared("dist/odometer-usage.js"),
		"/odometer-chart.js":       shared("dist/odometer-chart.js"),
		docsPath:                   page(read(dist, "dist/docs/index.html"), docsPolicy),
		"/docs/assets/docs.js":     own("dist/docs/docs.js"),
		"/docs/assets/docs.css":    own("dist/docs/docs.css"),
		"/docs/assets/favicon.png": library("favicon-32x32.png"),

		"/docs/assets/swagger-ui.css":       library("swagger-ui.css.gz"),
		"/docs/assets/swagger-ui-bundle.js": library("swagger-ui-bundle.js.gz"),
	}
}

// header has the headers of every file.
func header(name, cached string) http.Header {
	return http.Header{
		"Content-Type":                 {contentTypes[path.Ext(name)]},
		"Cache-Control":                {cached},
		"X-Content-Type-Options":       {"nosniff"},
		"Referrer-Policy":              {"no-referrer"},
		"Cross-Origin-Resource-Policy": {"same-origin"},
	}
}

// page is an HTML page under a policy.
func page(content []byte, policy string) *asset {
	h := header(".html", askEachTime)
	h.Set("Content-Security-Policy", policy)
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	return newAsset(content, compress(content), h)
}

// own is a file that only our pages load.
func own(name string) *asset {
	content := read(dist, name)
	return newAsset(content, compress(content), header(name, askEachTime))
}

// shared is a script that pages of any origin may load. It holds no data, and
// what it may read is decided by the API.
func shared(name string) *asset {
	content := read(dist, name)
	h := header(name, cachedForMinutes)
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Cross-Origin-Resource-Policy", "cross-origin")
	return newAsset(content, compress(content), h)
}

// library is a file of Swagger UI, most of which come compressed.
func library(name string) *asset {
	content := read(swagger.FS, name)
	plain, isGzip := strings.CutSuffix(name, ".gz")
	if !isGzip {
		return newAsset(content, compress(content), header(name, askEachTime))
	}
	return newAsset(decompress(content), content, header(plain, askEachTime))
}

// read reads an embedded file, which cannot be missing.
func read(from fs.FS, name string) []byte {
	content, err := fs.ReadFile(from, name)
	if err != nil {
		panic(fmt.Sprintf("embedded file: %v", err))
	}
	return content
}

func decompress(compressed []byte) []byte {
	z, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		panic(fmt.Sprintf("embedded file: %v", err))
	}
	content, err := io.ReadAll(z)
	if err != nil {
		panic(fmt.Sprintf("embedded file: %v", err))
	}
	return content
}

// asset is one file with its headers, plain and compressed.
type asset struct {
	header http.Header
	plain  encoded
	gzip   encoded // content nil: compressing gains nothing
}

// encoded is a representation of a file, with its own ETag, as the bytes differ.
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
// Where they do not name gzip, "*" counts.
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
