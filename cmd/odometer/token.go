package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"odometer/api"
	"odometer/cmd/internal/cli"
)

type tokenCmd struct {
	cli.AuthSettings
	Tenant  *cli.Tenant `help:"The tenant's UUID; an admin needs none." placeholder:"UUID"`
	Role    string      `enum:"tenant,admin" default:"tenant" help:"${enum}."`
	Scope   string      `default:"usage:read" help:"What the token allows: usage:read, usage:write, or both separated by a space."`
	Subject string      `default:"odometer-cli" help:"Whom the log of requests names as the token's bearer." placeholder:"NAME"`
	TTL     cli.Days    `name:"ttl" default:"1h" help:"How long it is valid: 1h, 30d."`
}

// Run prints the token and nothing else.
func (c *tokenCmd) Run(_ context.Context, t *cli.Terminal) error {
	key, err := cli.Secret("jwt-secret", c.JWTSecret, c.JWTSecretFile)
	switch {
	case err != nil:
		return err
	case key == "":
		return cli.Missing("jwt-secret")
	case c.Tenant == nil && c.Role != string(api.Admin):
		return cli.Usagef("--tenant is not set: a token of role %s is for one tenant", c.Role)
	case c.TTL <= 0:
		return cli.Usagef("--ttl %s: give a duration above 0", c.TTL)
	case strings.TrimSpace(c.Subject) == "":
		return cli.Usagef("--subject %q: name who will use the token, or leave the flag out", c.Subject)
	}
	claims := api.Claims{
		Role: api.Role(c.Role), Scopes: strings.Fields(c.Scope),
		Issuer: c.JWTIssuer, Audience: c.JWTAudience, Subject: strings.TrimSpace(c.Subject),
	}
	for _, scope := range claims.Scopes {
		if scope != "usage:read" && scope != "usage:write" {
			return cli.Usagef("--scope %q: want usage:read, usage:write, or both", scope)
		}
	}
	if c.Tenant != nil {
		claims.Tenant = uuid.UUID(*c.Tenant)
	}
	token, err := api.SignToken([]byte(key), claims, time.Duration(c.TTL))
	if err != nil {
		return cli.UsageError{Err: err}
	}
	cli.WarnIfWeak(t, key)
	fmt.Fprintln(t.Out, token)
	return nil
}
