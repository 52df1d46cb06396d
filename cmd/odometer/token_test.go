package main

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
)

// The log of requests, and what operators do, names the bearer by it.
func TestATokenNamesItsBearer(t *testing.T) {
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
