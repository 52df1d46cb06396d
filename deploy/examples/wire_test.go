package examples_test

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// publication is what an agent sent to be stored.
type publication struct {
	subject, messageID string
	payload            string
}

// loses says what a wire does not deliver.
type loses int

const (
	nothing loses = iota
	publications
	answers // from the first publication on
)

// wire lies between an agent and the NATS server. It sees what is published,
// and can lose it, or the server's answers, so that the agent can be killed
// just there.
type wire struct {
	url    string
	server string
	passed chan publication // what it lost, or whose answer

	mu    sync.Mutex
	loses loses
	seen  []publication
}

func newWire(t *testing.T, serverURL string) *wire {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	w := &wire{
		url:    "nats://" + listener.Addr().String(),
		server: strings.TrimPrefix(serverURL, "nats://"),
		passed: make(chan publication, 1000),
	}
	go func() {
		for {
			agent, err := listener.Accept()
			if err != nil {
				return // closed: the test has ended
			}
			go w.connect(agent)
		}
	}()
	return w
}

func (w *wire) lose(what loses) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.loses = what
}

func (w *wire) published() []publication {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]publication(nil), w.seen...)
}

// connect carries one connection until either side closes it.
func (w *wire) connect(agent net.Conn) {
	defer agent.Close()
	server, err := net.Dial("tcp", w.server)
	if err != nil {
		return
	}
	defer server.Close()
	c := &connection{wire: w, agent: agent, server: server}
	go c.carryAnswers()
	c.carryCommands()
}

type connection struct {
	wire          *wire
	agent, server net.Conn

	mu   sync.Mutex
	deaf bool // nothing reaches the agent any more
}

func (c *connection) carryCommands() {
	in := bufio.NewReader(c.agent)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		if words := strings.Fields(string(line)); len(words) > 1 && words[0] == "HPUB" && strings.HasPrefix(words[1], "usage.") {
			head, _ := strconv.Atoi(words[len(words)-2])
			total, _ := strconv.Atoi(words[len(words)-1])
			body := make([]byte, total+len("\r\n"))
			if _, err := io.ReadFull(in, body); err != nil {
				return
			}
			line = append(line, body...)
			if !c.passOn(publication{words[1], headerValue(body[:head], "Nats-Msg-Id"), string(body[head:total])}) {
				continue
			}
		}
		if _, err := c.server.Write(line); err != nil {
			return
		}
	}
}

// passOn notes a publication, and reports whether the server shall get it.
func (c *connection) passOn(p publication) bool {
	c.wire.mu.Lock()
	c.wire.seen = append(c.wire.seen, p)
	what := c.wire.loses
	c.wire.mu.Unlock()
	if what == nothing {
		return true
	}
	c.mu.Lock()
	c.deaf = true
	c.mu.Unlock()
	c.wire.passed <- p
	return what != publications
}

func (c *connection) carryAnswers() {
	defer c.agent.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := c.server.Read(buf)
		if err != nil {
			return
		}
		c.mu.Lock()
		deaf := c.deaf
		c.mu.Unlock()
		if deaf {
			continue
		}
		if _, err := c.agent.Write(buf[:n]); err != nil {
			return
		}
	}
}

func headerValue(head []byte, name string) string {
	for line := range bytes.Lines(head) {
		if key, value, ok := strings.Cut(string(line), ":"); ok && strings.EqualFold(key, name) {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
