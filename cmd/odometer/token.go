package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"odometer/api"
)

// authSettings say whose tokens are believed.
type authSettings struct {
	JWTSecret     string `name:"jwt-secret" help:"The shared secret of HS256 tokens." env:"ODOMETER_JWT_SECRET" placeholder:"SECRET"`
	JWTSecretFile string `name:"jwt-secret-file" help:"A file that holds it." env:"ODOMETER_JWT_SECRET_FILE" placeholder:"FILE"`
	JWTIssuer     string `name:"jwt-issuer" help:"The issuer that tokens must name." env:"ODOMETER_JWT_ISSUER" placeholder:"ISS"`
	JWTAudience   string `name:"jwt-audience" help:"The audience that tokens must name." env:"ODOMETER_JWT_AUDIENCE" placeholder:"AUD"`
}

type tokenCmd struct {
	authSettings
	Tenant  *tenant `help:"The tenant's UUID; an admin needs none." placeholder:"UUID"`
	Role    string  `enum:"tenant,admin" default:"tenant" help:"${enum}."`
	Scope   string  `default:"usage:read" help:"What the token allows: usage:read, usage:write, or both separated by a space."`
	Subject string  `default:"odometer-cli" help:"Whom the log of requests names as the token's bearer." placeholder:"NAME"`
	TTL     days    `name:"ttl" default:"1h" help:"How long it is valid: 1h, 30d."`
}

// Run prints the token and nothing else.
func (c *tokenCmd) Run(_ context.Context, t *terminal) error {
	key, err := secret("jwt-secret", c.JWTSecret, c.JWTSecretFile)
	switch {
	case err != nil:
		return err
	case key == "":
		return missing("jwt-secret")
	case c.Tenant == nil && c.Role != string(api.Admin):
		return usagef("--tenant is not set: a token of role %s is for one tenant", c.Role)
	case c.TTL <= 0:
		return usagef("--ttl %s: give a duration above 0", c.TTL)
	case strings.TrimSpace(c.Subject) == "":
		return usagef("--subject %q: name who will use the token, or leave the flag out", c.Subject)
	}
	claims := api.Claims{
		Role: api.Role(c.Role), Scopes: strings.Fields(c.Scope),
		Issuer: c.JWTIssuer, Audience: c.JWTAudience, Subject: strings.TrimSpace(c.Subject),
	}
	for _, scope := range claims.Scopes {
		if scope != "usage:read" && scope != "usage:write" {
			return usagef("--scope %q: want usage:read, usage:write, or both", scope)
		}
	}
	if c.Tenant != nil {
		claims.Tenant = uuid.UUID(*c.Tenant)
	}
	token, err := api.SignToken([]byte(key), claims, time.Duration(c.TTL))
	if err != nil {
		return usageError{err}
	}
	warnOfWeak(t, key)
	fmt.Fprintln(t.out, token)
	return nil
}

// warnOfWeak tells the operator of a secret for which a token's holder can
// search.
func warnOfWeak(t *terminal, key string) {
	if api.WeakSecret([]byte(key)) {
		t.log.Warn("the secret of the tokens is short enough to be guessed: make one with `openssl rand -hex 32`", "bytes", len(key))
	}
}
