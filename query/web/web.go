// Package web is what people see of the service: the usage widget that
// customers embed in their own pages, the chart that it loads lazily, the
// dashboard, and the API's documentation. It reads no data and knows no token;
// what it serves asks the API like any other client.
//
// What it guarantees:
//
//   - `go build` needs no Node.js: dist holds the bundles, is committed, and a
//     test of tools/bundle builds it again from src and compares.
//   - The widget, with its styles and texts, is at most 2 kB gzip; the same
//     tests print every size.
//   - Pages load nothing from other hosts and run no inline script; their
//     Content-Security-Policy makes the browser hold them to it.
//   - Nothing is compressed while somebody waits: that was done when the
//     program started.
//   - The demo's tokens are handed out only where they were asked for by a
//     loopback name or the listening address, and in no mode but the demo.
//
// The files:
//
//	src/        the sources: widget, chart, dashboard, docs
//	browser/    tests of the pages in a browser
//	assets.go   what is served where
//	asset.go    how: headers, 304, gzip
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
	// Sessions mints the demo's tokens, anew at each request. Nil everywhere
	// else: then there is nothing to ask for them, and no page tries.
	Sessions func(context.Context) ([]Session, error)
	// Addr is where the program listens, host:port. By its host, beside the
	// loopback names, the demo's tokens may be asked for.
	Addr string
	Log  *slog.Logger // where it is said that tokens could not be minted; needed with Sessions
}

// RegisterDocs puts the API's documentation onto the mux, for a service that
// has an API and nothing to show.
func RegisterDocs(mux *http.ServeMux) {
	for path, a := range assets(false) {
		if path == docsPath || strings.HasPrefix(path, docsPath+"/") {
			mux.Handle("GET "+path, a)
		}
	}
}

// Register puts the pages and scripts onto the mux.
func Register(mux *http.ServeMux, o Options) {
	for path, a := range assets(o.Sessions != nil) {
		mux.Handle("GET "+path, a) // HEAD too
	}
	if o.Sessions != nil {
		mux.Handle("GET "+sessionsPath, &sessions{o})
	}
}
