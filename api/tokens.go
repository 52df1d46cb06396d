package api

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
)

// Role is what a token allows its bearer to be.
type Role string

const (
	Tenant Role = "tenant" // reads its own usage
	Admin  Role = "admin"  // reads any tenant's
)

// Claims are what a token says about its bearer.
type Claims struct {
	Subject  string    // who it is, for the log; may be empty
	Tenant   uuid.UUID // uuid.Nil: none, which only an admin may have
	Role     Role      // "" is Tenant
	Scopes   []string  // "usage:read", "usage:write"
	Issuer   string    // "" where readers ask for none
	Audience string    // "" where readers ask for none
}

const (
	minSecret = 32               // bytes, as RFC 7518 wants for HS256
	leeway    = 30 * time.Second // by how much clocks may differ
	maxToken  = 8 << 10          // bytes; what is longer is not read at all
)

// SignToken makes a token that readers with the same secret accept for ttl.
// The error says what is wrong with the arguments.
func SignToken(secret []byte, c Claims, ttl time.Duration) (string, error) {
	if err := checkSecret(secret); err != nil {
		return "", err
	}
	role := c.Role
	if role == "" {
		role = Tenant
	}
	switch {
	case role != Tenant && role != Admin:
		return "", fmt.Errorf("role %q: want tenant or admin", c.Role)
	case role == Tenant && c.Tenant == uuid.Nil:
		return "", errors.New("a token with role tenant needs a tenant")
	case ttl < time.Second:
		return "", fmt.Errorf("ttl %s: want a second or more", ttl)
	}
	now := time.Now()
	p := payload{Role: string(role), Scope: c.Scopes}
	if c.Tenant != uuid.Nil {
		p.TenantID = c.Tenant.String()
	}
	p.Subject, p.Issuer = c.Subject, c.Issuer
	if c.Audience != "" {
		p.Audience = jwt.ClaimStrings{c.Audience}
	}
	p.IssuedAt, p.ExpiresAt = jwt.NewNumericDate(now), jwt.NewNumericDate(now.Add(ttl))
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, &p).SignedString(secret)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return token, nil
}

func checkSecret(secret []byte) error {
	if len(secret) == 0 {
		return errors.New("the secret for tokens is empty: make one with `openssl rand -hex 32`")
	}
	return nil
}

// WeakSecret reports whether a secret is shorter than RFC 7518 section 3.2
// wants for HS256. Such a secret works, but the holder of a token can search
// for it; warn the operator.
func WeakSecret(secret []byte) bool { return len(secret) < minSecret }

// Keys decide which tokens are valid.
type Keys struct {
	find   func(context.Context) jwt.Keyfunc
	parser *jwt.Parser
}

// Expect are the issuer and audience that a token must name; "" asks for none.
type Expect struct {
	Issuer   string
	Audience string
}

// KeysFromSecret accepts tokens signed by HS256 with the secret, as SignToken
// makes them. See WeakSecret.
func KeysFromSecret(secret []byte, expect Expect) (*Keys, error) {
	if err := checkSecret(secret); err != nil {
		return nil, err
	}
	secret = slices.Clone(secret)
	find := func(*jwt.Token) (any, error) { return secret, nil }
	return newKeys(func(context.Context) jwt.Keyfunc { return find }, expect, jwt.SigningMethodHS256.Alg()), nil
}

// newKeys pins the algorithms: the token has no say in which one checks it.
func newKeys(find func(context.Context) jwt.Keyfunc, expect Expect, algorithms ...string) *Keys {
	options := []jwt.ParserOption{
		jwt.WithValidMethods(algorithms),
		jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(),
		jwt.WithLeeway(leeway),
		jwt.WithStrictDecoding(),
		jwt.WithIssuer(expect.Issuer), // "" is not checked
	}
	if expect.Audience != "" {
		options = append(options, jwt.WithAudience(expect.Audience))
	}
	return &Keys{find, jwt.NewParser(options...)}
}

// tokenError is why a token is not accepted, in words that may be shown to its
// sender and that fit into a quoted header parameter.
type tokenError struct{ reason string }

func (e *tokenError) Error() string { return e.reason }

// verify validates a token. The error is a *tokenError when the token is not
// valid; any other error means that this is not known now.
func (k *Keys) verify(ctx context.Context, token string) (Claims, error) {
	if len(token) > maxToken {
		return Claims{}, &tokenError{"it is too long"}
	}
	var p payload
	_, err := k.parser.ParseWithClaims(token, &p, func(t *jwt.Token) (any, error) {
		// An extension that must be understood, and none is (RFC 7515, 4.1.11).
		if _, critical := t.Header["crit"]; critical {
			return nil, errors.New("critical header")
		}
		return k.find(ctx)(t)
	})
	if errors.Is(err, errKeysUnknown) {
		return Claims{}, err
	}
	if err != nil {
		return Claims{}, &tokenError{reasonFor(err)}
	}
	return p.claims()
}

func reasonFor(err error) string {
	for _, known := range []struct {
		err    error
		reason string
	}{
		{jwt.ErrTokenMalformed, "it is not a well-formed JSON Web Token"},
		{jwt.ErrTokenUnverifiable, "its key or algorithm is not known here"},
		{jwt.ErrTokenSignatureInvalid, "its signature or algorithm is not valid here"},
		{jwt.ErrTokenRequiredClaimMissing, "it lacks exp, or the issuer or audience that is asked for"},
		{jwt.ErrTokenExpired, "it has expired"},
		{jwt.ErrTokenNotValidYet, "it is not valid yet"},
		{jwt.ErrTokenUsedBeforeIssued, "it was issued in the future"},
		{jwt.ErrTokenInvalidIssuer, "it has another issuer"},
		{jwt.ErrTokenInvalidAudience, "it is for another audience"},
	} {
		if errors.Is(err, known.err) {
			return known.reason
		}
	}
	return "its claims are not valid"
}

// payload is the token's JSON.
type payload struct {
	jwt.RegisteredClaims
	TenantID string `json:"tenant_id,omitempty"`
	Role     string `json:"role,omitempty"`
	Scope    scopes `json:"scope,omitempty"`
}

// UnmarshalJSON reads names as they are written and refuses a name twice: with
// encoding/json the last of "tenant_id" and "Tenant_ID" would win.
func (p *payload) UnmarshalJSON(text []byte) error {
	type plain payload
	return json.Unmarshal(text, (*plain)(p))
}

func (p *payload) claims() (Claims, error) {
	c := Claims{Subject: p.Subject, Role: Role(p.Role), Scopes: p.Scope}
	if c.Role == "" {
		c.Role = Tenant
	}
	if c.Role != Tenant && c.Role != Admin {
		return Claims{}, &tokenError{"its role is neither tenant nor admin"}
	}
	if p.TenantID != "" {
		tenant, ok := ParseTenant(p.TenantID)
		if !ok {
			return Claims{}, &tokenError{"its tenant_id is not a UUID"}
		}
		c.Tenant = tenant
	}
	if c.Role == Tenant && c.Tenant == uuid.Nil {
		return Claims{}, &tokenError{"it names no tenant"}
	}
	return c, nil
}

// scopes are written as one string with spaces between, and read from that or
// an array.
type scopes []string

// MarshalJSON writes the string.
func (s scopes) MarshalJSON() ([]byte, error) { return json.Marshal(strings.Join(s, " ")) }

// UnmarshalJSON reads either form.
func (s *scopes) UnmarshalJSON(text []byte) error {
	var line string
	if err := json.Unmarshal(text, &line); err == nil {
		*s = strings.Fields(line)
		return nil
	}
	return json.Unmarshal(text, (*[]string)(s))
}
