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

// drops is what a proxy does not deliver.
type drops int

const (
	nothing drops = iota
	publications
	answers // from the first publication on
)

// proxy lies between an agent and the NATS server. It records what is published,
// and can drop it, or the server's answers, so that the agent can be killed
// just there.
type proxy struct {
	url    string
	server string
	passed chan publication // what it dropped, or whose answer

	mu    sync.Mutex
	drops drops
	seen  []publication
}

func newProxy(t *testing.T, serverURL string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	p := &proxy{
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
			go p.connect(agent)
		}
	}()
	return p
}

func (p *proxy) drop(what drops) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drops = what
}

func (p *proxy) published() []publication {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]publication(nil), p.seen...)
}

// connect carries one connection until either side closes it.
func (p *proxy) connect(agent net.Conn) {
	defer agent.Close()
	server, err := net.Dial("tcp", p.server)
	if err != nil {
		return
	}
	defer server.Close()
	c := &connection{proxy: p, agent: agent, server: server}
	go c.carryAnswers()
	c.carryCommands()
}

type connection struct {
	proxy         *proxy
	agent, server net.Conn

	mu    sync.Mutex
	muted bool // nothing reaches the agent any more
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

// passOn records a publication, and reports whether the server gets it.
func (c *connection) passOn(p publication) bool {
	c.proxy.mu.Lock()
	c.proxy.seen = append(c.proxy.seen, p)
	what := c.proxy.drops
	c.proxy.mu.Unlock()
	if what == nothing {
		return true
	}
	c.mu.Lock()
	c.muted = true
	c.mu.Unlock()
	c.proxy.passed <- p
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
		muted := c.muted
		c.mu.Unlock()
		if muted {
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
