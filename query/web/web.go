// Package web is what people see of the service: the usage widget that
// customers embed in their own pages, the chart that it loads lazily, the
// dashboard, and the API's documentation. It reads no data and has no token;
// the pages call the API like any other client.
//
// What it guarantees:
//
//   - `go build` needs no Node.js: dist holds the bundles, is committed, and a
//     test of tools/bundle builds it again from src and compares.
//   - The widget, with its styles and texts, is at most 2 kB gzip; the same
//     tests print every size.
//   - Pages load nothing from other hosts and run no inline script; the browser
//     enforces that by their Content-Security-Policy.
//   - Files are compressed once, when the program starts.
//   - The demo's tokens are served only in the demo, and only to requests by a
//     loopback name or the listening address.
//
// The files:
//
//	src/        the sources: widget, chart, dashboard, docs
//	browser/    tests of the pages in a browser
//	assets.go   the files that are served, with their headers, 304 and gzip
//	sessions.go the demo's tokens
//
// tools/bundle builds dist from src.
package web

//go:generate go -C ../../tools run ./bundle

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
)

// Options are what differs between the demo and a service.
type Options struct {
	// Sessions signs the demo's tokens, new ones for each request. Nil outside of
	// the demo: then nothing serves them, and no page asks for them.
	Sessions func(context.Context) ([]Session, error)
	// Addr is where the program listens, host:port. Requests for the demo's tokens
	// may name its host, beside the loopback names.
	Addr string
	Log  *slog.Logger // required with Sessions
}

// RegisterDocs adds only the API's documentation to the mux, for a service
// without a dashboard.
func RegisterDocs(mux *http.ServeMux) {
	for path, a := range assets(false) {
		if path == docsPath || strings.HasPrefix(path, docsPath+"/") {
			mux.Handle("GET "+path, a)
		}
	}
}

// Register adds the pages and scripts to the mux.
func Register(mux *http.ServeMux, o Options) {
	for path, a := range assets(o.Sessions != nil) {
		mux.Handle("GET "+path, a) // HEAD too
	}
	if o.Sessions != nil {
		mux.Handle("GET "+sessionsPath, &sessions{o})
	}
}
