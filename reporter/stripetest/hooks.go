package stripetest

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
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

// Hooks are all events so far, sent or not, so that a test can repeat, reorder,
// delay or lose them.
func (s *Server) Hooks() []Hook {
	s.enter()
	defer s.mu.Unlock()
	return slices.Clone(s.hooks)
}

// emit makes an event with the object as it is at that time.
func (s *Server) emit(kind string, data object, at time.Time) {
	id := s.id("evt")
	s.happened(id, kind, object{"id": id, "object": "event", "type": kind, "api_version": apiVersion,
		"created": at.Unix(), "livemode": s.options.Livemode, "pending_webhooks": 1,
		"request": object{"id": nil, "idempotency_key": nil}, "data": object{"object": data}})
}

// emitErrorReport makes the thin event that tells of meter events which Stripe
// took and could not aggregate. A thin event is of API v2: it names its object
// and has no data, and its time is text.
func (s *Server) emitErrorReport(m *meter, at time.Time) {
	const kind = "v1.billing.meter.error_report_triggered"
	id := s.id("evt")
	s.happened(id, kind, object{"id": id, "object": "v2.core.event", "type": kind,
		"created": at.Format("2006-01-02T15:04:05.000Z"), "livemode": s.options.Livemode, "context": nil, "reason": nil,
		"related_object": object{"id": m.id, "type": "billing.meter", "url": "/v1/billing/meters/" + m.id}})
}

func (s *Server) happened(id, kind string, event object) {
	payload, err := json.Marshal(event)
	if err != nil {
		panic("stripetest: " + err.Error())
	}
	h := Hook{ID: id, Type: kind, Payload: payload}
	s.hooks = append(s.hooks, h)
	if keep := s.options.HookHistory; keep > 0 && len(s.hooks) > keep {
		s.hooks[0] = Hook{}
		s.hooks = s.hooks[1:]
	}
	s.outbox.add(h)
}

// Deliver posts a hook once, signed for the secret. The signature's time is the
// real one, since that is what stripe-go holds it against.
func (s *Server) Deliver(ctx context.Context, url, secret string, h Hook) (status int, err error) {
	return deliver(ctx, url, secret, h)
}

func deliver(ctx context.Context, url, secret string, h Hook) (status int, err error) {
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
	_, _ = io.Copy(io.Discard, resp.Body) // so that the connection serves again
	return resp.StatusCode, nil
}

// signature is Stripe's scheme v1: an HMAC over the time and the payload.
func signature(t time.Time, secret string, payload []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(mac, "%d.%s", t.Unix(), payload)
	return fmt.Sprintf("t=%d,v1=%s", t.Unix(), hex.EncodeToString(mac.Sum(nil)))
}
