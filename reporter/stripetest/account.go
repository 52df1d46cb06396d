package stripetest

import "net/http"

// authorize lets a request pass that has the account's key.
func (s *Server) authorize(req *request) (a answer, ok bool) {
	key := bearer(req)
	switch {
	case key == "":
		return outside(http.StatusUnauthorized, apiError{Type: invalidRequest,
			Message: "You did not provide an API key. You need to provide your API key in the Authorization header, using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY'). See https://stripe.com/docs/api#authentication for details, or we can help at https://support.stripe.com/."}), false
	case s.options.Key != "" && key != s.options.Key:
		return invalidKey(key), false
	}
	return answer{}, true
}

// bearer reads the key; as in Stripe it may also be the user of basic auth.
func bearer(req *request) string {
	const scheme = "Bearer "
	if h := req.Header.Get("Authorization"); len(h) > len(scheme) && h[:len(scheme)] == scheme {
		return h[len(scheme):]
	}
	user, _, _ := req.BasicAuth()
	return user
}

func invalidKey(key string) answer {
	return outside(http.StatusUnauthorized, apiError{Type: invalidRequest,
		Message: "Invalid API Key provided: " + masked(key)})
}

// masked shows the ends of a key, as Stripe does.
func masked(key string) string {
	if len(key) <= 12 {
		return "********"
	}
	return key[:8] + "********" + key[len(key)-4:]
}

func (s *Server) getAccount(*request) answer {
	return ok(object{"id": s.options.Account, "object": "account", "type": "standard", "country": "US",
		"default_currency": "usd", "charges_enabled": true, "details_submitted": true, "payouts_enabled": true})
}
