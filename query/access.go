package query

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/google/uuid"

	"odometer"
)

// readScope is what a token must allow for reading usage.
const readScope = "usage:read"

// admit decides whose usage the request may read, and takes it from the
// tenant's allowance of requests. Otherwise it says how to answer. The order
// of the checks is the contract's.
func (s *server) admit(r *http.Request, seen *entry) (uuid.UUID, *reply) {
	claims, no := s.identify(r)
	if no != nil {
		return uuid.Nil, no
	}
	seen.subject = claims.Subject
	if !slices.Contains(claims.Scopes, readScope) {
		return uuid.Nil, deny(outOfScope(r, readScope))
	}
	tenant, no := wanted(r, claims)
	if no != nil {
		return uuid.Nil, no
	}
	seen.tenant = tenant
	if wait, ok := s.limit.take(reader{claims.Role, tenant}); !ok {
		out := problem(r, rateLimited, fmt.Sprintf("At most %d requests a minute are answered. Wait as long as Retry-After says.", s.limit.n))
		out.retryAfter(wait)
		return uuid.Nil, &out
	}
	return tenant, nil
}

// identify reads the request's token. Good claims name a tenant, unless they
// are an admin's whose query does.
func (s *server) identify(r *http.Request) (Claims, *reply) {
	token, ok := bearer(r.Header["Authorization"])
	if !ok {
		return Claims{}, deny(challenge(r, nil))
	}
	claims, err := s.keys.verify(r.Context(), token)
	var bad *tokenError
	switch {
	case errors.As(err, &bad):
		return Claims{}, deny(challenge(r, bad))
	case err != nil:
		return Claims{}, deny(problem(r, unavailable, "Tokens cannot be verified at the moment. Try again in a few seconds."))
	case claims.Tenant == uuid.Nil && !r.URL.Query().Has("tenant_id"):
		return Claims{}, deny(challenge(r, &tokenError{"it names no tenant, and the query no tenant_id"}))
	}
	return claims, nil
}

// wanted is the tenant that the request is about: the token's own, or the one
// that an admin's query names.
func wanted(r *http.Request, claims Claims) (uuid.UUID, *reply) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return uuid.Nil, deny(problem(r, invalidRequest, "The query string is not well-formed."))
	}
	named := query["tenant_id"]
	if claims.Role == Admin && len(named) > 0 {
		tenant, ok := odometer.ParseTenant(named[0])
		if !ok || len(named) > 1 {
			return uuid.Nil, deny(problem(r, invalidRequest, "tenant_id must be given once, as a UUID in its lower-case form."))
		}
		return tenant, nil
	}
	for _, name := range named {
		if name != claims.Tenant.String() {
			return uuid.Nil, deny(problem(r, forbidden, "The token reads its own tenant only. Leave tenant_id out, or use an admin's token."))
		}
	}
	return claims.Tenant, nil
}

func deny(r reply) *reply { return &r }

// bearer is the token of an Authorization header. Two headers are none: which
// of them counts is not for us to guess.
func bearer(lines []string) (token string, ok bool) {
	if len(lines) != 1 {
		return "", false
	}
	scheme, token, _ := strings.Cut(lines[0], " ")
	token = strings.Trim(token, " ")
	return token, strings.EqualFold(scheme, "Bearer") && token != ""
}
