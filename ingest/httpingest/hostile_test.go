package httpingest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"odometer/api/apitest"
	"odometer/ingest/natstest"
)

// dial opens a connection and sends the head of a request that announces a
// body of so many bytes (-1: chunks), and with it the body's beginning.
func (h *testServer) dial(t *testing.T, length int, begin string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", h.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	h.send(t, conn, length, begin)
	return conn
}

// send begins a request on a connection.
func (h *testServer) send(t *testing.T, conn net.Conn, length int, begin string) {
	t.Helper()
	framing := fmt.Sprintf("Content-Length: %d", length)
	if length < 0 {
		framing = "Transfer-Encoding: chunked"
	}
	_, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: %s\r\n%s\r\n\r\n%s", Path, h.token, ndjson, framing, begin)
	if err != nil {
		t.Fatal(err)
	}
}

// answer reads the answer to what was sent on a connection.
func answer(t *testing.T, conn net.Conn) *http.Response {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	r, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Body.Close() })
	return r
}

// hungUp reports whether the other side closed while we still sent.
func hungUp(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func bodyWithin(d time.Duration) func(*Options) {
	return func(o *Options) { o.BodyTimeout = d }
}

func TestBodyThatDoesNotArriveIsGivenUp(t *testing.T) {
	t.Parallel()
	h := open(t, bodyWithin(50*time.Millisecond))
	for name, begin := range map[string]string{"nothing": "", "a part": eventText("k"), "a trickle": "\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := h.dial(t, maxBody, begin)
			if name == "a trickle" {
				go trickle(conn)
			}
			detail := apitest.WantProblem(t, answer(t, conn), "408 unavailable")
			if !strings.Contains(detail, "50ms") {
				t.Error(detail)
			}
			// The connection is given up with it.
			if _, err := io.Copy(io.Discard, conn); err != nil && !hungUp(err) {
				t.Errorf("after the answer: %v", err)
			}
		})
	}
}

// trickle sends a byte now and then, until the other side hangs up.
func trickle(conn net.Conn) {
	for pace := time.Tick(5 * time.Millisecond); ; <-pace {
		if _, err := io.WriteString(conn, "\n"); err != nil {
			return
		}
	}
}

func TestTruncatedBodyStoresNothing(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	conn := h.dial(t, 1000, eventText("k")+"\n")
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	apitest.WantProblem(t, answer(t, conn), "408 unavailable")
	if n := h.env.Messages(); n != 0 {
		t.Errorf("%d messages", n)
	}
}

// The time for the body is not the time for the stream: a client that waits for
// a slow one has not gone.
func TestAfterTheBodyTheClientMayBeSilent(t *testing.T) {
	t.Parallel()
	h := open(t, func(o *Options) { o.BodyTimeout, o.PublishTimeout = 2*time.Millisecond, 20*time.Second })
	h.env.Server.Stop()
	body := eventText("k") + "\n"
	conn := h.dial(t, len(body), body) // in one packet: the body's time is never waited for
	until(t, func() bool { return h.inside() == 1 })
	h.env.Server.Start() // which takes longer
	if a := accepted(t, answer(t, conn)); a.Accepted != 1 {
		t.Errorf("%+v", a)
	}
	// And the connection can be used again.
	h.send(t, conn, len(body), body)
	accepted(t, answer(t, conn))
}

func TestTooLargeBodyIsRefusedBeforeItArrives(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	apitest.WantProblem(t, answer(t, h.dial(t, maxBody+1, "")), "413 too-large")
	apitest.WantProblem(t, answer(t, h.dial(t, 1<<40, "")), "413 too-large")
	conn := h.dial(t, -1, "")
	go func() {
		chunk := fmt.Sprintf("%x\r\n%s\r\n", 64<<10, strings.Repeat(" ", 64<<10))
		for _, err := io.WriteString(conn, chunk); err == nil; _, err = io.WriteString(conn, chunk) { // without end
		}
	}()
	apitest.WantProblem(t, answer(t, conn), "413 too-large")
}

// A length that is only announced takes no memory.
func TestMemoryGrowsWithWhatArrives(t *testing.T) {
	t.Parallel()
	for _, arrived := range []int{0, 1, 100_000, maxBody} {
		body, err := readAll(strings.NewReader(strings.Repeat(" ", arrived)))
		if err != nil || len(body) != arrived || cap(body) > max(2*arrived, firstRead) {
			t.Errorf("%d bytes: %d with room for %d, %v", arrived, len(body), cap(body), err)
		}
	}
	if body, err := readAll(strings.NewReader(strings.Repeat(" ", 2*maxBody))); !errors.Is(err, errTooLarge) || cap(body) > maxBody+1 {
		t.Errorf("room for %d bytes, %v", cap(body), err)
	}
}

func TestBodiesHeldAtOnceAreBounded(t *testing.T) {
	t.Parallel()
	h := open(t, func(o *Options) { o.Bodies, o.RoomTimeout = 2*shares, 50*time.Millisecond })
	mine := h.token
	var slow []net.Conn
	for range shares {
		accepted(t, h.post(t, eventText("k1"), plain))
		// Two are what one tenant may have, which keeps no other out.
		for range 2 {
			slow = append(slow, h.dial(t, 1000, ""))
			until(t, func() bool { return h.inside() == len(slow) })
		}
		r := h.post(t, eventText("k1"), plain)
		apitest.WantProblem(t, r, "503 unavailable")
		if r.Header.Get("Retry-After") != "1" {
			t.Errorf("Retry-After %q", r.Header.Get("Retry-After"))
		}
		h.token = token(t, uuid.New())
	}
	apitest.WantProblem(t, h.post(t, eventText("k1"), plain), "503 unavailable")
	for _, conn := range slow {
		conn.Close()
	}
	until(t, func() bool { return h.inside() == 0 })
	h.token = mine
	accepted(t, h.post(t, eventText("k1"), plain))
}

// A tenant with more workers than it has slots sees no refusal: each is served
// in a moment, and the next waits so long.
func TestBurstOfOneTenantIsAccepted(t *testing.T) {
	t.Parallel()
	h := open(t, func(o *Options) { o.Bodies, o.RoomTimeout = shares, time.Hour })
	const requests = 50
	statuses := make(chan int, requests)
	for i := range requests {
		go func() {
			status := 0
			defer func() { statuses <- status }() // also when there is no answer
			status = h.status(t, eventText(fmt.Sprint("k", i)))
		}()
	}
	for range requests {
		if got := <-statuses; got != http.StatusAccepted {
			t.Errorf("status %d", got)
		}
	}
}

// inside is how many bodies are held.
func (h *testServer) inside() int { return h.gate.Running() }

// status posts a body and returns the answer's status.
func (h *testServer) status(t *testing.T, body string) int {
	t.Helper()
	r := h.post(t, body, plain)
	_, _ = io.Copy(io.Discard, r.Body) // so that the connection is used again
	r.Body.Close()
	return r.StatusCode
}

// until asks again until it is so; what it waits for is another goroutine's
// next step.
func until(t *testing.T, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !so(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("the condition did not become true")
		}
	}
}

// Depth costs neither stack nor time.
func TestDeepJSONIsBounded(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	half := maxBody/2 - 100
	for name, c := range map[string]struct{ body, want string }{
		"arrays":              {"[" + strings.Repeat("[", half) + strings.Repeat("]", half) + "]", "202"},
		"arrays without end":  {strings.Repeat("[", 2*half), "400"},
		"objects":             {strings.Repeat(`{"":`, half/5) + "{}" + strings.Repeat("}", half/5), "202"},
		"objects without end": {strings.Repeat(`{"":`, half/5), "400"},
		"quotes":              {"[" + strings.Repeat(`"`, 2*half) + "]", "400"},
		"backslashes":         {`["` + strings.Repeat(`\`, 2*half) + `"]`, "202"},
		"escaped quotes":      {`["` + strings.Repeat(`\"`, half), "400"},
		"commas":              {"[" + strings.Repeat(",", 2*half) + "]", "400"},
	} {
		begin := time.Now()
		r := h.post(t, c.body, plain)
		if got := fmt.Sprint(r.StatusCode); got != c.want {
			t.Errorf("%s: status %s: %s", name, got, apitest.Body(t, r))
		}
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("%s took %s", name, took)
		}
	}
}

func TestStreamThatDoesNotStoreIs503(t *testing.T) {
	t.Parallel()
	within := func(o *Options) { o.PublishTimeout = 200 * time.Millisecond }
	refused := func(t *testing.T, h *testServer, word string) {
		t.Helper()
		for _, body := range []string{eventText("k1"), "[" + eventText("k1") + "," + eventText("k2") + "]"} {
			if detail := apitest.WantProblem(t, h.post(t, body, plain), "503 unavailable"); !strings.Contains(detail, word) || strings.Contains(detail, "stream") {
				t.Errorf("%q", detail)
			}
		}
		// What needs no stream is answered all the same.
		if a := accepted(t, h.post(t, "x", ndjson)); a.Invalid != 1 {
			t.Errorf("%+v", a)
		}
	}
	t.Run("away", func(t *testing.T) {
		t.Parallel()
		h := open(t, within)
		h.env.Server.Stop()
		refused(t, h, "Send the same again")
		h.env.Server.Start()
		until(t, func() bool { return h.status(t, eventText("k1")) == http.StatusAccepted })
	})
	t.Run("missing", func(t *testing.T) {
		t.Parallel()
		h := open(t, within)
		h.Config.Handler, _ = newAPI(t, natstest.Run(t).Connect(t), within)
		refused(t, h, "Send the same again")
	})
	t.Run("full", func(t *testing.T) {
		t.Parallel()
		h := openFull(t, nil) // which says so at once
		refused(t, h, "no room")
	})
}
