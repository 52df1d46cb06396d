package httpingest

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"odometer/api/apitest"
)

// distinct is how many different events the stream holds, by their identity:
// what will be counted.
func (h *testServer) distinct(t *testing.T) int {
	t.Helper()
	ids := map[uuid.UUID]bool{}
	for seq := range uint64(h.env.Messages()) {
		e, _ := h.env.Stored(seq + 1)
		ids[e.ID()] = true
	}
	return len(ids)
}

// A client that got no answer sends the same again, for as long as it takes.
func (h *testServer) insist(t *testing.T, body string) {
	t.Helper()
	until(t, func() bool {
		r, err := h.try(t, body)
		if err != nil {
			return false
		}
		defer r.Body.Close()
		_, _ = io.Copy(io.Discard, r.Body)
		return r.StatusCode == http.StatusAccepted
	})
}

func (h *testServer) try(t *testing.T, body string) (*http.Response, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(soon(t), http.MethodPost, h.URL+Path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+h.token)
	r.Header.Set("Content-Type", ndjson)
	return http.DefaultClient.Do(r)
}

func linesOf(prefix string, n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(eventText(fmt.Sprint(prefix, i)) + "\n")
	}
	return b.String()
}

func TestRequestWithLostAnswerIsStoredOnceByItsKeys(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	body := linesOf("k", 50)
	for range 5 {
		conn := h.dial(t, len(body), body)
		until(t, func() bool { return h.env.Messages() >= 50 || h.inside() > 0 })
		conn.Close() // before the answer, or with it unread
	}
	h.insist(t, body)
	if n := h.distinct(t); n != 50 {
		t.Errorf("%d different events, want 50", n)
	}
}

// The server of the stream is killed again and again while clients insist:
// each event that was accepted is there, and none is there as another.
func TestAcceptedEventsOutliveTheStreamsServer(t *testing.T) {
	t.Parallel()
	h := open(t, func(o *Options) { o.PublishTimeout = 300 * time.Millisecond })
	const clients, requests, events = 3, 4, 20
	done := make(chan struct{})
	for c := range clients {
		go func() {
			defer func() { done <- struct{}{} }()
			for r := range requests {
				h.insist(t, linesOf(fmt.Sprintf("k%d-%d-", c, r), events))
			}
		}()
	}
	for left := clients; left > 0; {
		select {
		case <-done:
			left--
		default:
			h.env.Server.Kill()
			h.env.Server.Start()
			before := h.env.Messages()
			until(t, func() bool { return h.env.Messages() > before || len(done) > 0 || h.inside() == 0 })
		}
	}
	if n := h.distinct(t); n != clients*requests*events {
		t.Errorf("%d different events, want %d", n, clients*requests*events)
	}
}

// Clients wait for an answer, and hold a connection meanwhile: while NATS is
// away they get theirs long before the stream's usual time is over. What they
// send again afterwards is one event by its key, though the bytes of every try
// may have gone out when NATS was back.
func TestRequestsAreAnsweredSoonWhileNATSIsAway(t *testing.T) {
	t.Parallel()
	h := open(t, func(o *Options) { o.PublishTimeout = time.Hour })
	accepted(t, h.post(t, linesOf("before", 3), ndjson))
	h.env.Server.Stop()
	for body, form := range map[string]string{eventText("one"): plain, linesOf("several", 40): ndjson} {
		begin := time.Now()
		r := h.post(t, body, form)
		apitest.WantProblem(t, r, "503 unavailable")
		if took := time.Since(begin); took < awayTimeout || took > awayTimeout+10*time.Second {
			t.Errorf("given up after %s, want %s", took, awayTimeout)
		}
		if got := r.Header.Get("Retry-After"); got != "5" {
			t.Errorf("Retry-After %q", got)
		}
	}
	h.env.Server.Start()
	h.insist(t, linesOf("several", 40))
	for range 2 {
		accepted(t, h.post(t, eventText("one"), plain))
		accepted(t, h.post(t, linesOf("several", 40), ndjson))
	}
	if n := h.distinct(t); n != 3+1+40 {
		t.Errorf("%d different events, want 44", n)
	}
}
