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

// Caller is who asks, and for whom.
type Caller struct {
	Subject string    // of the token; may be empty
	Role    Role      // of the token
	Tenant  uuid.UUID // whom the request is about; uuid.Nil on operators' routes
	Scopes  []string  // of the token
}

// Who names the caller in what is written down: who did it.
func (c Caller) Who() string {
	if name := cleaned(c.Subject); name != "" {
		return name
	}
	return "api"
}

// maxSubject bounds how much of a token's subject is written down.
const maxSubject = 200

// cleaned is a subject as it may be written where people read it: what cannot
// be printed is left out, and so is what goes too far.
func cleaned(subject string) string {
	name := []rune(strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, subject)))
	return string(name[:min(len(name), maxSubject)])
}

// admit decides whether a request may come in, and takes it from the caller's
// allowance of requests. The order of the checks is the contract's.
func (a *API) admit(g *guarded, r *http.Request) (Caller, *Problem) {
	v := visitOf(r.Context())
	claims, p := a.identify(g, r)
	if p != nil {
		return Caller{}, p
	}
	who := Caller{Subject: claims.Subject, Role: claims.Role, Scopes: claims.Scopes}
	v.caller = who
	v.tenant = claims.Tenant
	if g.AdminOnly && claims.Role == Admin {
		v.tenant = about(r)
	}
	switch {
	case !slices.Contains(claims.Scopes, g.Scope):
		return who, outOfScope(g.Scope)
	case g.AdminOnly && claims.Role != Admin:
		return who, Refuse(Forbidden, "This is for operators: it needs a token of role admin.")
	case !g.AdminOnly:
		if who.Tenant, p = wanted(g, r, claims); p != nil {
			v.named = shownTenant(about(r))
			return who, p
		}
		v.tenant = who.Tenant
	}
	v.caller = who
	if wait, ok := g.limit.take(reader{who.Role, who.Tenant, subjectOf(g, who)}); !ok {
		return who, tooOften(g.limit.n, wait)
	}
	return who, nil
}

func tooOften(perMinute int, wait time.Duration) *Problem {
	p := Refuse(RateLimited, "At most %d requests a minute are answered here. Try again in %d s.", perMinute, wholeSeconds(wait))
	p.RetryAfter(wait)
	return p
}

// about is the tenant that an operator's request names, for the log; uuid.Nil
// when it names none.
func about(r *http.Request) uuid.UUID {
	named := r.PathValue(tenantParameter)
	if named == "" {
		named = r.URL.Query().Get(tenantParameter)
	}
	tenant, _ := ParseTenant(named)
	return tenant
}

// ParseTenant reads a tenant's id as clients may write it, in letters of either
// case (RFC 9562, 4); odometer.ParseTenant is for subjects, where each spelling
// is another.
func ParseTenant(s string) (uuid.UUID, bool) { return odometer.ParseTenant(strings.ToLower(s)) }

// subjectOf tells operators apart where no tenant does.
func subjectOf(g *guarded, who Caller) string {
	if g.AdminOnly {
		return who.Subject
	}
	return ""
}

// identify reads the request's token. Good claims name a tenant, unless they
// are an admin's whose query does or who needs none here.
func (a *API) identify(g *guarded, r *http.Request) (Claims, *Problem) {
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
		return Claims{}, Refuse(Unavailable, "Tokens cannot be verified at the moment. Try again in a few seconds.")
	case claims.Tenant == uuid.Nil && !g.AdminOnly && (g.writes() || !r.URL.Query().Has(tenantParameter)):
		return Claims{}, nobodys(g)
	}
	return claims, nil
}

// nobodys is a 401 for a good token of an admin where it is not known whom the
// request is about. A fresh token of the kind would not help.
func nobodys(g *guarded) *Problem {
	p := challenge(&tokenError{"it names no tenant"})
	p.Detail = "The token names no tenant: add ?tenant_id= with the tenant to read."
	if g.writes() {
		p.Detail = "The token names no tenant: events are written by a token whose claim tenant_id says whose they are."
	}
	return p
}

const tenantParameter = "tenant_id"

// wanted is the tenant that the request is about: the token's own, or, for
// reading, the one that an admin's query names.
func wanted(g *guarded, r *http.Request, claims Claims) (uuid.UUID, *Problem) {
	named := r.URL.Query()[tenantParameter]
	if claims.Role == Admin && len(named) > 0 && !g.writes() {
		tenant, ok := ParseTenant(named[0])
		if !ok || len(named) > 1 {
			return uuid.Nil, Refuse(InvalidRequest, "tenant_id is %s: it must be given once, as a UUID.", shownJSON(strings.Join(named, ", ")))
		}
		return tenant, nil
	}
	for _, name := range named {
		switch {
		case strings.EqualFold(name, claims.Tenant.String()):
		case g.writes():
			return uuid.Nil, Refuse(Forbidden, "Events are written for the token's own tenant. Leave tenant_id out, or use a token of that tenant.")
		default:
			return uuid.Nil, Refuse(Forbidden, "The token reads its own tenant only. Leave tenant_id out, or use an admin's token.")
		}
	}
	return claims.Tenant, nil
}

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

// CallerOf is who asked the request that ctx belongs to.
func CallerOf(ctx context.Context) Caller { return visitOf(ctx).caller }
