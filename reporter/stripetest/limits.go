package stripetest

import (
	"crypto/sha256"
	"net/http"
	"strings"
	"time"

	"golang.org/x/time/rate"
)

// newRateLimiter allows a second's worth of requests at once; 0 allows any number.
func newRateLimiter(perSecond float64) *rate.Limiter {
	if perSecond <= 0 {
		return rate.NewLimiter(rate.Inf, 1)
	}
	return rate.NewLimiter(rate.Limit(perSecond), int(max(1, perSecond)))
}

// bearer reads the key; as in Stripe it may also be the user of basic auth.
func bearer(req *request) string {
	if key, ok := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer "); ok && key != "" {
		return key
	}
	user, _, _ := req.BasicAuth()
	return user
}

func invalidKey(key string) answer {
	return notExecuted(http.StatusUnauthorized, apiError{Type: invalidRequest,
		Message: "Invalid API Key provided: " + maskKey(key)})
}

// maskKey shows the ends of a key, as Stripe does.
func maskKey(key string) string {
	if len(key) <= 12 {
		return "********"
	}
	return key[:8] + "********" + key[len(key)-4:]
}

func (s *Server) getAccount(*request, time.Time) (object, error) {
	return object{"id": s.options.Account, "object": "account", "type": "standard", "country": "US",
		"default_currency": "usd", "charges_enabled": true, "details_submitted": true, "payouts_enabled": true}, nil
}

// storedAnswer is the first answer to an Idempotency-Key. An unanswered one
// belongs to a request in progress.
type storedAnswer struct {
	path     string
	params   [sha256.Size]byte
	answered bool
	answer   answer
}

// idempotent runs a request unless its Idempotency-Key has an answer already.
// Stripe stores the first answer of an endpoint that began to execute, whatever
// it was, so a stored 500 comes again although the work may have been done.
func (s *Server) idempotent(req *request, run func() answer) answer {
	key := req.idempotencyKey()
	if key == "" {
		return run()
	}
	if len(key) > 255 {
		return invalid("", "", "Idempotency keys can be at most 255 characters.")
	}
	first, claimed := s.claim(key, req)
	if !claimed {
		return first
	}
	a := run()
	s.storeAnswer(key, a)
	return a
}

// claim takes a key for a request, or says what to answer instead.
func (s *Server) claim(key string, req *request) (instead answer, claimed bool) {
	params := sha256.Sum256([]byte(req.form.Encode()))
	now := s.lockNow()
	defer s.mu.Unlock()
	known := s.keys.get(key, now)
	if known == nil {
		s.keys.put(key, storedAnswer{path: req.URL.Path, params: params}, now)
		return answer{}, true
	}
	switch first := &known.value; {
	case first.path != req.URL.Path:
		return idempotencyError("for the same endpoint they were first used for ('"+first.path+"')", key), false
	case first.params != params:
		return idempotencyError("with the same parameters they were first used with", key), false
	case first.answered:
		replay := first.answer
		replay.replayed = true
		return replay, false
	default:
		return notExecuted(http.StatusConflict, apiError{Type: "idempotency_error", Code: "idempotency_key_in_use",
			Message: "There is currently another in-progress request using this Idempotent Key (that probably means you submitted twice, and the other request is still going through): " + key + ". If you see this error frequently and are making multiple concurrent requests, make your requests serially or at a lower rate."}), false
	}
}

// storeAnswer stores the answer of a claimed key, or frees the key when nothing
// was executed.
func (s *Server) storeAnswer(key string, a answer) {
	now := s.lockNow()
	defer s.mu.Unlock()
	if !a.began {
		delete(s.keys.entries, key)
		return
	}
	if first := s.keys.get(key, now); first != nil {
		first.value.answered, first.value.answer = true, a
	}
}

func idempotencyError(rule, key string) answer {
	return notExecuted(http.StatusBadRequest, apiError{Type: "idempotency_error",
		Message: "Keys for idempotent requests can only be used " + rule + ". Try using a key other than '" + key + "' if you meant to execute a different request."})
}

// rememberedFor is how long Stripe remembers identifiers and Idempotency-Keys.
// It promises at least 24 hours; forgetting at once tests what must hold after
// that.
const rememberedFor = 24 * time.Hour

// dayCache keeps values for 24 hours, so that it holds no more than a day of
// traffic.
type dayCache[V any] struct {
	entries map[string]*dated[V]
	order   []*dated[V] // oldest first, also those that were dropped
}

type dated[V any] struct {
	key   string
	at    time.Time
	value V
}

// get returns nil for a key that was never put, was dropped or is too old.
func (m *dayCache[V]) get(key string, now time.Time) *dated[V] {
	for len(m.order) > 0 && now.Sub(m.order[0].at) >= rememberedFor {
		first := m.order[0]
		if m.entries[first.key] == first {
			delete(m.entries, first.key)
		}
		m.order[0] = nil
		m.order = m.order[1:]
	}
	return m.entries[key]
}

func (m *dayCache[V]) put(key string, value V, now time.Time) {
	if m.entries == nil {
		m.entries = map[string]*dated[V]{}
	}
	e := &dated[V]{key, now, value}
	m.entries[key] = e
	m.order = append(m.order, e)
}
