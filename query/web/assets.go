package web

import (
	"bytes"
	"compress/gzip"
	"embed"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path"
	"strings"

	swagger "github.com/swaggest/swgui/v5/static"
)

//go:embed dist
var dist embed.FS

// What a page may do. Trusted types make it impossible to turn text into markup
// or script, so that nothing a tenant sends can become either. Swagger UI
// needs markup, and draws its icons from data: URLs.
const (
	pagePolicy = "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; " +
		"require-trusted-types-for 'script'; trusted-types 'none'"
	docsPolicy = "default-src 'self'; img-src 'self' data:; " +
		"object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)

// How long a file may be used without asking whether it is still the same.
// Scripts in customers' pages: a few minutes, so that a new version is there
// soon. Our own pages ask each time, which costs them a 304.
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

// assets are the files by their path. In the demo the dashboard is told where
// its tokens are.
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

// header is what every file carries.
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

// read takes a file that was embedded, and cannot be missing.
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
