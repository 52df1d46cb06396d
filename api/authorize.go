package api

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/google/uuid"

	"odometer"
)

// What a token can allow.
const (
	ReadScope  = "usage:read"
	WriteScope = "usage:write"
)

// Caller is who sent a request, and about which tenant.
type Caller struct {
	Subject string    // of the token; may be empty
	Role    Role      // of the token
	Tenant  uuid.UUID // that the request is about; uuid.Nil on operators' routes
	Scopes  []string  // of the token
}

// Who names the caller in records of what was done.
func (c Caller) Who() string {
	if name := printable(c.Subject); name != "" {
		return name
	}
	return "api"
}

// maxSubject is how many characters of a token's subject are recorded.
const maxSubject = 200

// printable is a subject without what cannot be printed, at most maxSubject long.
func printable(subject string) string {
	name := []rune(strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, subject)))
	return string(name[:min(len(name), maxSubject)])
}

// authorize checks a request's token, role, scope and tenant, then counts it
// against the caller's rate limit. The order of the checks is the contract's.
func (a *API) authorize(g *operation, r *http.Request) (Caller, *Problem) {
	state := stateOf(r.Context())
	claims, p := a.identify(g, r)
	if p != nil {
		return Caller{}, p
	}
	who := Caller{Subject: claims.Subject, Role: claims.Role, Scopes: claims.Scopes}
	state.caller = who
	state.tenant = claims.Tenant
	if g.AdminOnly && claims.Role == Admin {
		state.tenant = namedTenant(r)
	}
	switch {
	case !slices.Contains(claims.Scopes, g.Scope):
		return who, scopeMissing(g.Scope)
	case g.AdminOnly && claims.Role != Admin:
		return who, NewProblem(Forbidden, "This is for operators: it needs a token of role admin.")
	case !g.AdminOnly:
		if who.Tenant, p = requestedTenant(g, r, claims); p != nil {
			state.named = tenantText(namedTenant(r))
			return who, p
		}
		state.tenant = who.Tenant
	}
	state.caller = who
	if wait, ok := g.limit.take(limiterKey{who.Role, who.Tenant, limiterSubject(g, who)}); !ok {
		return who, rateLimited(g.limit.n, wait)
	}
	return who, nil
}

func rateLimited(perMinute int, wait time.Duration) *Problem {
	p := NewProblem(RateLimited, "At most %d requests a minute are answered here. Try again in %d s.", perMinute, wholeSeconds(wait))
	p.RetryAfter(wait)
	return p
}

// namedTenant is the tenant that an operator's request names, for the log;
// uuid.Nil when it names none.
func namedTenant(r *http.Request) uuid.UUID {
	named := r.PathValue(tenantParameter)
	if named == "" {
		named = r.URL.Query().Get(tenantParameter)
	}
	tenant, _ := ParseTenant(named)
	return tenant
}

// ParseTenant reads a tenant's id as clients may write it, in upper or lower
// case (RFC 9562, 4). In subjects case matters: see odometer.ParseTenant.
func ParseTenant(s string) (uuid.UUID, bool) { return odometer.ParseTenant(strings.ToLower(s)) }

// limiterSubject distinguishes operators on routes without a tenant.
func limiterSubject(g *operation, who Caller) string {
	if g.AdminOnly {
		return who.Subject
	}
	return ""
}

// identify verifies the request's token. Its claims name a tenant, unless the
// query does, or the route needs none.
func (a *API) identify(g *operation, r *http.Request) (Claims, *Problem) {
	token, ok := bearer(r.Header["Authorization"])
	if !ok {
		return Claims{}, challenge(nil)
	}
	claims, err := a.Keys.verify(r.Context(), token)
	var bad *tokenError
	switch {
	case errors.As(err, &bad):
		return Claims{}, challenge(bad)
	case err != nil:
		return Claims{}, NewProblem(Unavailable, "Tokens cannot be verified at the moment. Try again in a few seconds.")
	case claims.Tenant == uuid.Nil && !g.AdminOnly && (g.writes() || !r.URL.Query().Has(tenantParameter)):
		return Claims{}, tenantMissing(g)
	}
	return claims, nil
}

// tenantMissing is a 401 for an admin's valid token where no tenant is named. A
// new token of the same kind would not help.
func tenantMissing(g *operation) *Problem {
	p := challenge(&tokenError{"it names no tenant"})
	p.Detail = "The token names no tenant: add ?tenant_id= with the tenant to read."
	if g.writes() {
		p.Detail = "The token names no tenant: events are written by a token whose claim tenant_id says whose they are."
	}
	return p
}

const tenantParameter = "tenant_id"

// requestedTenant is the tenant that the request is about: the token's own, or, for
// reading, the one that an admin's query names.
func requestedTenant(g *operation, r *http.Request, claims Claims) (uuid.UUID, *Problem) {
	named := r.URL.Query()[tenantParameter]
	if claims.Role == Admin && len(named) > 0 && !g.writes() {
		tenant, ok := ParseTenant(named[0])
		if !ok || len(named) > 1 {
			return uuid.Nil, NewProblem(InvalidRequest, "tenant_id is %s: it must be given once, as a UUID.", excerptJSON(strings.Join(named, ", ")))
		}
		return tenant, nil
	}
	for _, name := range named {
		switch {
		case strings.EqualFold(name, claims.Tenant.String()):
		case g.writes():
			return uuid.Nil, NewProblem(Forbidden, "Events are written for the token's own tenant. Leave tenant_id out, or use a token of that tenant.")
		default:
			return uuid.Nil, NewProblem(Forbidden, "The token reads its own tenant only. Leave tenant_id out, or use an admin's token.")
		}
	}
	return claims.Tenant, nil
}

// bearer is the token of an Authorization header. Two headers count as none: it
// is not clear which one is meant.
func bearer(lines []string) (token string, ok bool) {
	if len(lines) != 1 {
		return "", false
	}
	scheme, token, _ := strings.Cut(lines[0], " ")
	token = strings.Trim(token, " ")
	return token, strings.EqualFold(scheme, "Bearer") && token != ""
}

// CallerOf is the caller of the request of ctx.
func CallerOf(ctx context.Context) Caller { return stateOf(ctx).caller }
