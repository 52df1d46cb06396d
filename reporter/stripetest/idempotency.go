package stripetest

import (
	"crypto/sha256"
	"net/http"
)

// firstAnswer is what an Idempotency-Key stands for. An unanswered one belongs
// to a request that is still under way.
type firstAnswer struct {
	path     string
	params   [sha256.Size]byte
	answered bool
	answer   answer
}

// once runs a request unless its Idempotency-Key has an answer already. Stripe
// keeps the first answer of an endpoint that began to execute, whatever it was,
// so a kept 500 comes again although the work may have been done.
func (s *Server) once(req *request, run func() answer) answer {
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
	s.settle(key, a)
	return a
}

// claim takes a key for a request, or says what to answer instead.
func (s *Server) claim(key string, req *request) (instead answer, claimed bool) {
	params := sha256.Sum256([]byte(req.form.Encode()))
	now := s.enter()
	defer s.mu.Unlock()
	first, known := s.keys.get(key, now)
	switch {
	case !known:
		s.keys.put(key, &firstAnswer{path: req.URL.Path, params: params}, now)
		return answer{}, true
	case first.path != req.URL.Path:
		return idempotencyError("for the same endpoint they were first used for ('"+first.path+"')", key), false
	case first.params != params:
		return idempotencyError("with the same parameters they were first used with", key), false
	case !first.answered:
		return outside(http.StatusConflict, apiError{Type: "idempotency_error", Code: "idempotency_key_in_use",
			Message: "There is currently another in-progress request using this Idempotent Key (that probably means you submitted twice, and the other request is still going through): " + key + ". If you see this error frequently and are making multiple concurrent requests, make your requests serially or at a lower rate."}), false
	}
	replay := first.answer
	replay.replayed = true
	return replay, false
}

// settle keeps the answer of a claimed key, or gives the key back when nothing
// was executed under it.
func (s *Server) settle(key string, a answer) {
	now := s.enter()
	defer s.mu.Unlock()
	if !a.began {
		s.keys.drop(key)
		return
	}
	if first, known := s.keys.get(key, now); known {
		first.answered, first.answer = true, a
	}
}

func idempotencyError(rule, key string) answer {
	return outside(http.StatusBadRequest, apiError{Type: "idempotency_error",
		Message: "Keys for idempotent requests can only be used " + rule + ". Try using a key other than '" + key + "' if you meant to execute a different request."})
}
