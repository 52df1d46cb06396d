package main

import (
	"encoding/base64"
	"encoding/json"
	"odometer/cmd/internal/cli"
	"strings"
	"testing"
)

// The log of requests, and what operators do, names the bearer by it.
func TestTokenHasSubject(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "odometer-cli"},
		{[]string{"--subject", "billing-export"}, "billing-export"},
	} {
		token := must(t, append([]string{"token", "--role", "admin", "--jwt-secret", strings.Repeat("k", 40)}, c.args...)...)
		payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
		if err != nil {
			t.Fatal(err)
		}
		var claims struct{ Sub string }
		if err := json.Unmarshal(payload, &claims); err != nil || claims.Sub != c.want {
			t.Errorf("%v: subject %q, want %q, %v", c.args, claims.Sub, c.want, err)
		}
	}
}

// A secret that can be guessed works, and is warned of where it is used; the
// token alone is on stdout.
func TestWeakTokenSecretIsLogged(t *testing.T) {
	t.Parallel()
	for secret, warned := range map[string]bool{"tiny?": true, strings.Repeat("s", 31): true, strings.Repeat("s", 32): false} {
		got := odometerDoes(t, "token", "--tenant", someTenant, "--jwt-secret", secret)
		if got.code != cli.ExitDone || strings.Count(got.out, ".") != 2 || strings.Count(got.out, "\n") != 1 {
			t.Errorf("%d bytes: exit %d, %q", len(secret), got.code, got.out)
		}
		if strings.Contains(got.err, "openssl rand -hex 32") != warned || strings.Contains(got.err, secret) {
			t.Errorf("%d bytes: warned of %v: %q", len(secret), !warned, got.err)
		}
	}
}
