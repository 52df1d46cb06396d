package api

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"odometer/api/apitest"
)

func TestInvalidTokensAreRejected(t *testing.T) {
	t.Parallel()
	good := hs256(t, nil)
	parts := strings.Split(good, ".")
	segment := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	resigned := func(claims string) string {
		text := parts[0] + "." + segment(claims)
		mac, err := jwt.SigningMethodHS256.Sign(text, secret)
		if err != nil {
			t.Fatal(err)
		}
		return text + "." + base64.RawURLEncoding.EncodeToString(mac)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]string{
		"empty":                       " ",
		"rubbish":                     "rubbish",
		"dots":                        "..",
		"four parts":                  good + ".x",
		"no signature":                parts[0] + "." + parts[1] + ".",
		"signature cut":               good[:len(good)-3],
		"signature of another":        parts[0] + "." + segment(`{"tenant_id":"`+uuid.NewString()+`","scope":"usage:read","exp":9999999999}`) + "." + parts[2],
		"other secret":                signed(t, jwt.SigningMethodHS256, []byte(strings.Repeat("x", 32)), nil, claimsWith(nil)),
		"alg none":                    signed(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil, claimsWith(nil)),
		"alg None, spelled otherwise": segment(`{"alg":"None","typ":"JWT"}`) + "." + parts[1] + ".",
		"alg of another strength":     signed(t, jwt.SigningMethodHS512, secret, nil, claimsWith(nil)),
		"alg RS256":                   signed(t, jwt.SigningMethodRS256, rsaKey, nil, claimsWith(nil)),
		"no alg":                      segment(`{"typ":"JWT"}`) + "." + parts[1] + "." + parts[2],
		"critical extension":          signed(t, jwt.SigningMethodHS256, secret, map[string]any{"crit": []string{"x"}, "x": 1}, claimsWith(nil)),
		"expired":                     hs256(t, map[string]any{"exp": seconds(-time.Hour)}),
		"without exp":                 hs256(t, map[string]any{"exp": nil}),
		"exp is a word":               hs256(t, map[string]any{"exp": "never"}),
		"not yet":                     hs256(t, map[string]any{"nbf": seconds(time.Hour)}),
		"issued in the future":        hs256(t, map[string]any{"iat": seconds(time.Hour)}),
		"no tenant":                   hs256(t, map[string]any{"tenant_id": nil}),
		"empty tenant":                hs256(t, map[string]any{"tenant_id": ""}),
		"tenant is no UUID":           hs256(t, map[string]any{"tenant_id": "acme"}),
		"tenant in braces":            hs256(t, map[string]any{"tenant_id": "{" + someTenant.String() + "}"}),
		"tenant is a number":          hs256(t, map[string]any{"tenant_id": 7}),
		"nil tenant":                  hs256(t, map[string]any{"tenant_id": uuid.Nil.String()}),
		"unknown role":                hs256(t, map[string]any{"role": "root"}),
		"role in capitals":            hs256(t, map[string]any{"role": "ADMIN"}),
		"role is an array":            hs256(t, map[string]any{"role": []string{"admin"}}),
		"scope is a number":           hs256(t, map[string]any{"scope": 1}),
		"scope is an object":          hs256(t, map[string]any{"scope": map[string]any{"usage:read": true}}),
		"claims are null":             resigned(`null`),
		"claims are an array":         resigned(`[]`),
		"a claim twice":               resigned(`{"tenant_id":"` + uuid.NewString() + `","tenant_id":"` + someTenant.String() + `","scope":"usage:read","exp":9999999999}`),
		"claims of another case":      resigned(`{"TENANT_ID":"` + someTenant.String() + `","scope":"usage:read","exp":9999999999}`),
		"too long":                    hs256(t, map[string]any{"pad": strings.Repeat("x", 9<<10)}),
		"in quotes":                   `"` + good + `"`,
	}
	h := handler(t)
	for name, bad := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := apitest.Get(h, someRoute, bad)
			apitest.WantProblem(t, r, "401 unauthorized")
			challenge := r.Header.Get("WWW-Authenticate")
			if !strings.HasPrefix(challenge, "Bearer") || strings.Contains(challenge, `error="invalid_token"`) != (bad != " ") {
				t.Errorf("WWW-Authenticate: %s", challenge)
			}
		})
	}
}

func TestValidTokensAreAccepted(t *testing.T) {
	t.Parallel()
	keys := secretKeys(t)
	base := Claims{Tenant: someTenant, Role: Tenant, Scopes: []string{"usage:read"}}
	with := func(change func(*Claims)) Claims { c := base; change(&c); return c }
	tests := map[string]struct {
		change map[string]any
		want   Claims
	}{
		"plain":               {nil, base},
		"role tenant":         {map[string]any{"role": "tenant"}, base},
		"role admin":          {map[string]any{"role": "admin"}, with(func(c *Claims) { c.Role = Admin })},
		"admin of no tenant":  {map[string]any{"role": "admin", "tenant_id": nil}, with(func(c *Claims) { c.Role, c.Tenant = Admin, uuid.Nil })},
		"several scopes":      {map[string]any{"scope": "usage:write  usage:read"}, with(func(c *Claims) { c.Scopes = []string{"usage:write", "usage:read"} })},
		"scopes as an array":  {map[string]any{"scope": []string{"usage:read", "x"}}, with(func(c *Claims) { c.Scopes = []string{"usage:read", "x"} })},
		"subject":             {map[string]any{"sub": "dana"}, with(func(c *Claims) { c.Subject = "dana" })},
		"tenant in capitals":  {map[string]any{"tenant_id": "7B0C4D1E-8F7A-4B6E-9D4E-111111111111"}, base},
		"issuer, not asked":   {map[string]any{"iss": "someone", "aud": []string{"x", "y"}}, base},
		"claims of other use": {map[string]any{"email": "a@example.com", "nested": map[string]any{"a": 1}}, base},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := keys.verify(context.Background(), hs256(t, test.change))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestClocksMayDifferByHalfAMinute(t *testing.T) {
	t.Parallel()
	keys := secretKeys(t)
	for _, test := range []struct {
		claim string
		off   time.Duration
		want  int
	}{
		{"exp", -20 * time.Second, http.StatusOK},
		{"exp", -40 * time.Second, http.StatusUnauthorized},
		{"nbf", 20 * time.Second, http.StatusOK},
		{"nbf", 40 * time.Second, http.StatusUnauthorized},
		{"iat", 20 * time.Second, http.StatusOK},
		{"iat", 40 * time.Second, http.StatusUnauthorized},
	} {
		if got := verdict(t, keys, hs256(t, map[string]any{test.claim: seconds(test.off)})); got != test.want {
			t.Errorf("%s %v from now: %d", test.claim, test.off, got)
		}
	}
}

func TestScopeIsAWholeWord(t *testing.T) {
	t.Parallel()
	h := handler(t)
	for _, scope := range []any{nil, "", "usage:write", "usage", "usage:readx", "USAGE:READ", "usage:read,usage:write", []string{}, []string{"usage:write usage:read"}} {
		r := apitest.Get(h, someRoute, hs256(t, map[string]any{"scope": scope}))
		apitest.WantProblem(t, r, "403 forbidden")
		if !strings.Contains(r.Header.Get("WWW-Authenticate"), "insufficient_scope") {
			t.Errorf("scope %v: WWW-Authenticate %q", scope, r.Header.Get("WWW-Authenticate"))
		}
	}
}

func TestIssuerAndAudienceAreRequired(t *testing.T) {
	t.Parallel()
	keys, err := KeysFromSecret(secret, Expect{Issuer: "https://issuer.example", Audience: "odometer"})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		iss, aud any
		good     bool
	}{
		{"https://issuer.example", "odometer", true},
		{"https://issuer.example", []string{"x", "odometer"}, true},
		{"https://issuer.example/", "odometer", false},
		{nil, "odometer", false},
		{"https://issuer.example", nil, false},
		{"https://issuer.example", "other", false},
	}
	for _, test := range tests {
		_, err := keys.verify(context.Background(), hs256(t, map[string]any{"iss": test.iss, "aud": test.aud}))
		var bad *tokenError
		if (err == nil) != test.good || err != nil && !errors.As(err, &bad) {
			t.Errorf("iss %v, aud %v: %v", test.iss, test.aud, err)
		}
	}
}

func TestTokenIsTakenFromItsHeaderOnly(t *testing.T) {
	t.Parallel()
	good := hs256(t, nil)
	accepted := func(target string, lines ...string) bool {
		r := httptest.NewRequest(http.MethodGet, target, nil)
		r.Header["Authorization"] = lines
		r.AddCookie(&http.Cookie{Name: "token", Value: good})
		a := New(Options{Keys: secretKeys(t), Log: apitest.Quiet})
		_, p := a.identify(&operation{}, r)
		return p == nil
	}
	for _, line := range []string{"Bearer " + good, "bearer " + good, "BEARER  " + good} {
		if !accepted(someRoute, line) {
			t.Errorf("refused: %.12s…", line)
		}
	}
	for _, line := range []string{good, "Basic " + good, "Bearer" + good, "Bearer", "Bearer ", "Token " + good} {
		if accepted(someRoute, line) {
			t.Errorf("accepted: %.12s…", line)
		}
	}
	if accepted(someRoute+"?access_token="+good) || accepted(someRoute, "Bearer "+good, "Bearer "+good) {
		t.Error("accepted from elsewhere")
	}
}

func TestSignedTokenIsAccepted(t *testing.T) {
	t.Parallel()
	keys, err := KeysFromSecret(secret, Expect{Issuer: "i", Audience: "a"})
	if err != nil {
		t.Fatal(err)
	}
	want := Claims{Subject: "dana", Tenant: someTenant, Role: Admin, Scopes: []string{"usage:read", "usage:write"}}
	asked := want
	asked.Issuer, asked.Audience = "i", "a"
	text, err := SignToken(secret, asked, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	got, err := keys.verify(context.Background(), text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestUnacceptableTokensAreNotSigned(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		secret []byte
		claims Claims
		ttl    time.Duration
		says   string
	}{
		"empty secret": {nil, Claims{Tenant: someTenant}, time.Hour, "openssl rand -hex 32"},
		"no tenant":    {secret, Claims{}, time.Hour, "tenant"},
		"role":         {secret, Claims{Tenant: someTenant, Role: "root"}, time.Hour, `"root"`},
		"ttl":          {secret, Claims{Tenant: someTenant}, 0, "ttl"},
	}
	for name, test := range tests {
		if _, err := SignToken(test.secret, test.claims, test.ttl); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := KeysFromSecret(nil, Expect{}); err == nil || !strings.Contains(err.Error(), "openssl rand -hex 32") {
		t.Errorf("keys from a short secret: %v", err)
	}
}

// A UUID is the same in letters of either case (RFC 9562).
func TestATenantsCaseDoesNotMatter(t *testing.T) {
	t.Parallel()
	h := handler(t)
	capitals := someRoute + "?tenant_id=" + strings.ToUpper(someTenant.String())
	for _, bearer := range []string{goodToken(t), token(t, Claims{Role: Admin, Scopes: []string{ReadScope}})} {
		if r := apitest.Get(h, capitals, bearer); r.StatusCode != http.StatusOK || !strings.Contains(apitest.Body(t, r), someTenant.String()) {
			t.Errorf("status %d", r.StatusCode)
		}
	}
}

var someTenant = uuid.MustParse("7b0c4d1e-8f7a-4b6e-9d4e-111111111111")

// claimsWith are the claims of a good token, changed by what the test says; nil
// takes a claim away.
func claimsWith(change map[string]any) jwt.MapClaims {
	c := jwt.MapClaims{
		"tenant_id": someTenant.String(),
		"scope":     "usage:read",
		"exp":       time.Now().Add(time.Hour).Unix(),
	}
	for name, value := range change {
		if c[name] = value; value == nil {
			delete(c, name)
		}
	}
	return c
}

func signed(t testing.TB, method jwt.SigningMethod, key any, header map[string]any, claims jwt.Claims) string {
	t.Helper()
	token := jwt.NewWithClaims(method, claims)
	for name, value := range header {
		token.Header[name] = value
	}
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func hs256(t testing.TB, change map[string]any) string {
	t.Helper()
	return signed(t, jwt.SigningMethodHS256, secret, nil, claimsWith(change))
}

func seconds(d time.Duration) int64 { return time.Now().Add(d).Unix() }

// publicPEM is what a careless verifier would take for an HMAC secret.
func publicPEM(t testing.TB, public any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func ecKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
