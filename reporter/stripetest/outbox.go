package stripetest

import (
	"context"
	"sync"
	"time"
)

// How a hook is sent again that was not answered by 2xx. Stripe takes days over
// it; here a demo waits.
const (
	deliveryAttempts = 20
	deliveryPause    = 250 * time.Millisecond
	deliveryTimeout  = 10 * time.Second
)

// outbox sends hooks in the background, one after the other. One that fails goes
// to the end, so order is not kept: Stripe does not promise it either.
type outbox struct {
	mu          sync.Mutex
	url, secret string
	waiting     []parcel
	sending     bool
}

type parcel struct {
	hook     Hook
	attempts int
}

// SendHooksTo delivers every hook from now on to a webhook endpoint; an empty
// URL ends that and drops what was not delivered yet.
func (s *Server) SendHooksTo(url, secret string) {
	o := &s.outbox
	o.mu.Lock()
	defer o.mu.Unlock()
	o.url, o.secret = url, secret
	if url == "" {
		o.waiting = nil
	}
}

// add takes a hook, if there is an endpoint, and sees that someone sends it.
func (o *outbox) add(h Hook) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.url == "" {
		return
	}
	o.waiting = append(o.waiting, parcel{hook: h})
	if !o.sending {
		o.sending = true
		go o.send()
	}
}

// send ends when nothing waits, so that a server needs no closing.
func (o *outbox) send() {
	for {
		p, url, secret, some := o.next()
		if !some {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), deliveryTimeout)
		status, err := deliver(ctx, url, secret, p.hook)
		cancel()
		if err == nil && status/100 == 2 {
			continue
		}
		time.Sleep(deliveryPause)
		o.again(p)
	}
}

func (o *outbox) next() (p parcel, url, secret string, some bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.waiting) == 0 {
		o.sending = false
		return parcel{}, "", "", false
	}
	p = o.waiting[0]
	o.waiting = o.waiting[1:]
	return p, o.url, o.secret, true
}

func (o *outbox) again(p parcel) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if p.attempts++; p.attempts < deliveryAttempts && o.url != "" {
		o.waiting = append(o.waiting, p)
	}
}
