package httpingest

import (
	"testing"
	"time"

	"odometer/api/apitest"
)

// Clients wait for an answer, and hold a connection meanwhile: while NATS is
// away they get theirs long before the stream's usual time is over. What they
// send again afterwards is one event by its key, though the bytes of every try
// may have gone out when NATS was back.
func TestWhileNATSIsAwayNobodyWaitsLong(t *testing.T) {
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
