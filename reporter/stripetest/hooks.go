package stripetest

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"
)

// Hook is one event for a webhook endpoint.
type Hook struct {
	ID, Type string
	Payload  []byte
}

// Hooks returns all events so far, sent or not, so that a test can repeat,
// reorder, delay or lose them.
func (s *Server) Hooks() []Hook {
	s.lockNow()
	defer s.mu.Unlock()
	return slices.Clone(s.hooks)
}

// emit emits an event with the object in its state at that time.
func (s *Server) emit(kind string, data object, at time.Time) {
	id := s.id("evt")
	s.addHook(id, kind, object{"id": id, "object": "event", "type": kind, "api_version": apiVersion,
		"created": at.Unix(), "livemode": s.options.Livemode, "pending_webhooks": 1,
		"request": object{"id": nil, "idempotency_key": nil}, "data": object{"object": data}})
}

// emitErrorReport emits the thin event about meter events that Stripe accepted
// and could not aggregate. A thin event is of API v2: it names its object and
// has no data, and its time is text.
func (s *Server) emitErrorReport(m *meter, at time.Time) {
	const kind = "v1.billing.meter.error_report_triggered"
	id := s.id("evt")
	s.addHook(id, kind, object{"id": id, "object": "v2.core.event", "type": kind,
		"created": at.Format("2006-01-02T15:04:05.000Z"), "livemode": s.options.Livemode, "context": nil, "reason": nil,
		"related_object": object{"id": m.id, "type": "billing.meter", "url": "/v1/billing/meters/" + m.id}})
}

func (s *Server) addHook(id, kind string, event object) {
	h := Hook{ID: id, Type: kind, Payload: encode(event)}
	s.hooks = append(s.hooks, h)
	if keep := s.options.HookHistory; keep > 0 && len(s.hooks) > keep {
		s.hooks[0] = Hook{}
		s.hooks = s.hooks[1:]
	}
	if s.outbox.url == "" {
		return
	}
	s.outbox.waiting = append(s.outbox.waiting, delivery{hook: h})
	if !s.outbox.sending {
		s.outbox.sending = true
		go s.sendHooks()
	}
}

// Deliver posts a hook once, signed with the secret. The signature has the real
// time, since stripe-go checks it against the real clock.
func (s *Server) Deliver(ctx context.Context, url, secret string, h Hook) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(h.Payload))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	req.Header.Set("User-Agent", "Stripe/1.0 (+https://stripe.com/docs/webhooks)")
	req.Header.Set("Stripe-Signature", signature(time.Now(), secret, h.Payload))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body) // so that the connection can be reused
	return resp.StatusCode, nil
}

// signature is Stripe's scheme v1: an HMAC over the time and the payload.
func signature(t time.Time, secret string, payload []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(mac, "%d.%s", t.Unix(), payload)
	return fmt.Sprintf("t=%d,v1=%s", t.Unix(), hex.EncodeToString(mac.Sum(nil)))
}

// Retries of a hook that was not answered by 2xx. Stripe takes days; here a
// demo waits.
const (
	deliveryAttempts = 20
	deliveryPause    = 250 * time.Millisecond
	deliveryTimeout  = 10 * time.Second
)

// outbox holds hooks that are sent in the background, one after the other. One
// that fails goes to the end, so order is not kept: Stripe does not promise it
// either.
type outbox struct {
	url, secret string
	waiting     []delivery
	sending     bool
}

type delivery struct {
	hook     Hook
	attempts int
}

// SendHooksTo delivers every hook from now on to a webhook endpoint; an empty
// URL ends that and drops what was not delivered yet.
func (s *Server) SendHooksTo(url, secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outbox.url, s.outbox.secret = url, secret
	if url == "" {
		s.outbox.waiting = nil
	}
}

// sendHooks ends when nothing waits, so that a server needs no closing.
func (s *Server) sendHooks() {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := &s.outbox
	for len(o.waiting) > 0 {
		d, url, secret := o.waiting[0], o.url, o.secret
		o.waiting = o.waiting[1:]
		s.mu.Unlock() // while the endpoint works
		delivered := s.deliverOrPause(url, secret, d.hook)
		s.mu.Lock()
		if d.attempts++; !delivered && d.attempts < deliveryAttempts && o.url != "" {
			o.waiting = append(o.waiting, d)
		}
	}
	o.sending = false
}

func (s *Server) deliverOrPause(url, secret string, h Hook) (delivered bool) {
	ctx, cancel := context.WithTimeout(context.Background(), deliveryTimeout)
	defer cancel()
	status, err := s.Deliver(ctx, url, secret, h)
	if err == nil && status/100 == 2 {
		return true
	}
	time.Sleep(deliveryPause)
	return false
}
