package web

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

const sessionsPath = "/demo/sessions"

// Session is a token of the demo and who its bearer is.
type Session struct {
	Name     string     `json:"name"`
	Role     string     `json:"role"`      // tenant or admin
	TenantID *uuid.UUID `json:"tenant_id"` // nil for an admin
	Token    string     `json:"token"`
}

// withSessions adds a meta element by which the dashboard knows that it is in
// the demo.
func withSessions(index []byte) []byte {
	return bytes.Replace(index, []byte("</head>"),
		[]byte(`<meta name="odometer-sessions" content="`+sessionsPath+`">`+"\n</head>"), 1)
}

// sessions serves the demo's tokens.
type sessions struct{ Options }

// ServeHTTP answers requests whose Host can only mean this machine. A page of
// another host may have its own name point here (DNS rebinding); then the browser
// takes both for one origin, but sends that name.
func (s *sessions) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	if peer, _, err := net.SplitHostPort(r.RemoteAddr); err == nil && !net.ParseIP(peer).IsLoopback() {
		refuse(w, r, http.StatusForbidden, "forbidden", "Forbidden",
			"The demo's tokens are for this machine. Elsewhere sign in with a token: odometer token --jwt-secret-file DIR/jwt-secret, of the demo's --data-dir DIR.")
		return
	}
	if !s.local(r.Host) {
		refuse(w, r, http.StatusForbidden, "forbidden", "Forbidden",
			fmt.Sprintf("The demo's tokens are for this machine: open it by localhost, 127.0.0.1 or %s, not by %q.", s.Addr, r.Host))
		return
	}
	all, err := s.Sessions(r.Context())
	if err != nil {
		s.Log.ErrorContext(r.Context(), "the demo's tokens could not be signed", "reason", err)
		refuse(w, r, http.StatusServiceUnavailable, "unavailable", "Unavailable", "The demo has no tokens yet. Try again in a few seconds.")
		return
	}
	if all == nil {
		all = []Session{}
	}
	h.Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"sessions": all})
}

// local reports whether a Host header, with or without a port, names the
// loopback or the host that the program listens on.
func (s *sessions) local(host string) bool {
	name := hostname(host)
	if ip := net.ParseIP(name); ip != nil && ip.IsLoopback() {
		return true
	}
	return name == "localhost" || strings.HasSuffix(name, ".localhost") || name != "" && name == hostname(s.Addr)
}

// hostname is the address without its port, in lower case; "" when it is none.
func hostname(addr string) string {
	name, port, err := net.SplitHostPort(addr)
	if err != nil {
		name = strings.Trim(addr, "[]")
	} else if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return ""
	}
	return strings.TrimSuffix(strings.ToLower(name), ".")
}

// refuse writes a problem document (RFC 9457).
func refuse(w http.ResponseWriter, r *http.Request, status int, kind, title, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "5")
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(struct {
		Type     string `json:"type"`
		Title    string `json:"title"`
		Status   int    `json:"status"`
		Detail   string `json:"detail"`
		Instance string `json:"instance"`
	}{"/problems/" + kind, title, status, detail, r.URL.Path})
}
