package api

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/time/rate"

	"odometer/api/apitest"
)

func keysFrom(t testing.TB, i *issuer) *Keys {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	keys, err := KeysFromURL(ctx, i.URL, Expect{}, apitest.Quiet)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// verdict is how a token is answered: 200, 401 or 503.
func verdict(t testing.TB, keys *Keys, token string) int {
	t.Helper()
	_, err := keys.verify(context.Background(), token)
	var bad *tokenError
	switch {
	case err == nil:
		return http.StatusOK
	case errors.As(err, &bad):
		return http.StatusUnauthorized
	case errors.Is(err, errKeysUnknown):
		return http.StatusServiceUnavailable
	}
	t.Fatal(err)
	return 0
}

func kid(id string) map[string]any { return map[string]any{"kid": id} }

// testKeys are one private key of each kind.
type testKeys struct {
	rsa     *rsa.PrivateKey
	ed      ed25519.PrivateKey
	weakRSA *rsa.PrivateKey
}

var generated = sync.OnceValue(func() testKeys {
	strong, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		panic(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return testKeys{strong, ed, weak}
})

func TestKeySetDecidesWhichTokensAreValid(t *testing.T) {
	t.Parallel()
	k, p256, p384 := generated(), ecKey(t, elliptic.P256()), ecKey(t, elliptic.P384())
	shared := []byte(strings.Repeat("s", 32))
	i := newIssuer(t)
	i.says(http.StatusOK, keySet(t,
		published{id: "rsa", key: &k.rsa.PublicKey, use: jwkset.UseSig},
		published{id: "rsa-pinned", key: &k.rsa.PublicKey, alg: jwkset.AlgPS256},
		published{id: "rsa-enc", key: &k.rsa.PublicKey, use: jwkset.UseEnc},
		published{id: "rsa-weak", key: &k.weakRSA.PublicKey},
		published{id: "ec", key: &p256.PublicKey},
		published{id: "ec-384", key: &p384.PublicKey},
		published{id: "ed", key: k.ed, also: true},
		published{id: "shared", key: shared, also: true},
	))
	keys := keysFrom(t, i)
	rs, es, ed := jwt.SigningMethodRS256, jwt.SigningMethodES256, jwt.SigningMethodEdDSA
	tests := map[string]struct {
		token string
		want  int
	}{
		"RS256":                     {signed(t, rs, k.rsa, kid("rsa"), claimsWith(nil)), 200},
		"ES256":                     {signed(t, es, p256, kid("ec"), claimsWith(nil)), 200},
		"EdDSA":                     {signed(t, ed, k.ed, kid("ed"), claimsWith(nil)), 200},
		"without a key id":          {signed(t, es, p256, nil, claimsWith(nil)), 200},
		"expired":                   {signed(t, rs, k.rsa, kid("rsa"), claimsWith(map[string]any{"exp": 1})), 401},
		"alg none":                  {signed(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, kid("rsa"), claimsWith(nil)), 401},
		"RS384":                     {signed(t, jwt.SigningMethodRS384, k.rsa, kid("rsa"), claimsWith(nil)), 401},
		"PS256":                     {signed(t, jwt.SigningMethodPS256, k.rsa, kid("rsa-pinned"), claimsWith(nil)), 401},
		"key of another algorithm":  {signed(t, rs, k.rsa, kid("rsa-pinned"), claimsWith(nil)), 401},
		"key of another kind":       {signed(t, rs, k.rsa, kid("ec"), claimsWith(nil)), 401},
		"key for encryption":        {signed(t, rs, k.rsa, kid("rsa-enc"), claimsWith(nil)), 401},
		"weak key":                  {signed(t, rs, k.weakRSA, kid("rsa-weak"), claimsWith(nil)), 401},
		"ES384":                     {signed(t, jwt.SigningMethodES384, p384, kid("ec-384"), claimsWith(nil)), 401},
		"other key, known id":       {signed(t, es, ecKey(t, elliptic.P256()), kid("ec"), claimsWith(nil)), 401},
		"HS256 with the public PEM": {signed(t, jwt.SigningMethodHS256, publicPEM(t, &k.rsa.PublicKey), kid("rsa"), claimsWith(nil)), 401},
		"HS256 with the shared key": {signed(t, jwt.SigningMethodHS256, shared, kid("shared"), claimsWith(nil)), 401},
		"key id is a number":        {signed(t, rs, k.rsa, map[string]any{"kid": 1}, claimsWith(nil)), 401},
		"key brought along":         {signed(t, rs, k.rsa, map[string]any{"kid": "mine", "jwk": map[string]any{"kty": "RSA"}, "jku": "http://127.0.0.1:1"}, claimsWith(nil)), 401},
	}
	for name, test := range tests {
		if got := verdict(t, keys, test.token); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}

func TestRotatedKeyIsFetchedOnceForConcurrentRequests(t *testing.T) {
	t.Parallel()
	old, next := ecKey(t, elliptic.P256()), ecKey(t, elliptic.P256())
	i := newIssuer(t)
	i.says(http.StatusOK, keySet(t, published{id: "old", key: &old.PublicKey}))
	keys := keysFrom(t, i)
	oldToken := signed(t, jwt.SigningMethodES256, old, kid("old"), claimsWith(nil))
	nextToken := signed(t, jwt.SigningMethodES256, next, kid("next"), claimsWith(nil))
	if got := verdict(t, keys, oldToken); got != http.StatusOK {
		t.Fatalf("old key: %d", got)
	}
	i.says(http.StatusOK, keySet(t, published{id: "next", key: &next.PublicKey}))
	before := i.requests.Load()
	var crowd sync.WaitGroup
	for range 50 {
		crowd.Go(func() {
			if got := verdict(t, keys, nextToken); got != http.StatusOK {
				t.Errorf("rotated key: %d", got)
			}
		})
	}
	crowd.Wait()
	if n := i.requests.Load() - before; n > jwksUnknownBurst {
		t.Errorf("the issuer was asked %d times", n)
	}
	if got := verdict(t, keys, oldToken); got != http.StatusUnauthorized {
		t.Errorf("a key that was taken back: %d", got)
	}
}

func TestUnknownKeysDoNotFloodTheIssuer(t *testing.T) {
	t.Parallel()
	key := ecKey(t, elliptic.P256())
	i := newIssuer(t)
	keys := keysFrom(t, i)
	for n := range 200 {
		if got := verdict(t, keys, signed(t, jwt.SigningMethodES256, key, kid(strings.Repeat("x", n)), claimsWith(nil))); got != http.StatusUnauthorized {
			t.Fatalf("unknown key: %d", got)
		}
	}
	// One for the start; a slow machine may earn a few more on the way.
	if n := i.requests.Load(); n > 1+jwksUnknownBurst+5 {
		t.Errorf("the issuer was asked %d times", n)
	}
}

// askingFreely are keys that are fetched for every unknown one, and never by
// themselves.
func askingFreely(t testing.TB, i *issuer, log *slog.Logger) *remoteKeys {
	t.Helper()
	return &remoteKeys{
		Storage: jwkset.NewMemoryStorage(), address: i.URL, client: i.Client(), log: log,
		unknown: rate.NewLimiter(rate.Inf, 1), lastFail: errKeysUnknown,
	}
}

func TestUnavailableIssuerAffectsOnlyNewKeys(t *testing.T) {
	t.Parallel()
	key := ecKey(t, elliptic.P256())
	known := signed(t, jwt.SigningMethodES256, key, kid("known"), claimsWith(nil))
	unknown := signed(t, jwt.SigningMethodES256, key, kid("unknown"), claimsWith(nil))
	i := newIssuer(t)
	i.says(http.StatusBadGateway, nil)
	keys, err := askingFreely(t, i, apitest.Quiet).keys(Expect{})
	if err != nil {
		t.Fatal(err)
	}
	h := handlerWith(Options{Keys: keys, Log: apitest.Quiet})
	apitest.WantProblem(t, apitest.Get(h, someRoute, known), "503 unavailable")
	apitest.WantProblem(t, apitest.Get(h, someRoute, "rubbish"), "401 unauthorized")
	for _, page := range []string{`<html>`, `{}`, `{"keys":null}`, ``} {
		i.says(http.StatusOK, []byte(page))
		if got := verdict(t, keys, known); got != http.StatusServiceUnavailable {
			t.Errorf("after the page %q: %d", page, got)
		}
	}
	i.says(http.StatusOK, keySet(t, published{id: "known", key: &key.PublicKey}))
	if got := verdict(t, keys, known); got != http.StatusOK {
		t.Errorf("after the issuer answered: %d", got)
	}
	i.Close()
	if got := verdict(t, keys, unknown); got != http.StatusServiceUnavailable {
		t.Errorf("unknown key without the issuer: %d", got)
	}
	if got := verdict(t, keys, known); got != http.StatusOK {
		t.Errorf("known key without the issuer: %d", got)
	}
}

// answering is a connection to an issuer that answers by a function.
type answering func() *http.Response

func (a answering) RoundTrip(*http.Request) (*http.Response, error) { return a(), nil }

func TestKeySetIsFetchedByItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked, status atomic.Int64
		status.Store(http.StatusBadGateway)
		remote := &remoteKeys{
			Storage: jwkset.NewMemoryStorage(), address: "http://issuer.example", log: apitest.Quiet,
			client: &http.Client{Transport: answering(func() *http.Response {
				asked.Add(1)
				return &http.Response{StatusCode: int(status.Load()), Body: io.NopCloser(strings.NewReader(`{"keys":[]}`))}
			})},
		}
		go remote.keepFresh(t.Context())
		after := func(d time.Duration, want int64) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if got := asked.Load(); got != want {
				t.Errorf("asked %d times, want %d", got, want)
			}
		}
		after(0, 1)
		after(jwksRetry, 2)
		status.Store(http.StatusOK)
		after(jwksRetry, 3)
		after(jwksFresh-time.Second, 3)
		after(time.Second, 4)
	})
}

func TestEmptyKeySetTakesAllKeysBack(t *testing.T) {
	t.Parallel()
	key := ecKey(t, elliptic.P256())
	i := newIssuer(t)
	i.says(http.StatusOK, keySet(t, published{id: "a", key: &key.PublicKey}))
	keys := keysFrom(t, i)
	good := signed(t, jwt.SigningMethodES256, key, kid("a"), claimsWith(nil))
	if got := verdict(t, keys, good); got != http.StatusOK {
		t.Fatal(got)
	}
	i.says(http.StatusOK, keySet(t))
	verdict(t, keys, signed(t, jwt.SigningMethodES256, key, kid("b"), claimsWith(nil)))
	if got := verdict(t, keys, good); got != http.StatusUnauthorized {
		t.Errorf("%d", got)
	}
}

func TestKeySetsAddressIsChecked(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"", "issuer.example/jwks", "file:///etc/passwd", "ftp://issuer.example", "http://", "%"} {
		if _, err := KeysFromURL(t.Context(), address, Expect{}, apitest.Quiet); err == nil {
			t.Errorf("%q is accepted", address)
		}
	}
}

func TestIssuersAbsenceIsLoggedOnce(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	i := newIssuer(t)
	remote := askingFreely(t, i, slog.New(slog.NewTextHandler(&log, nil)))
	for _, status := range []int{500, 500, 200, 200, 500, 500} {
		i.says(status, []byte(`{"keys":[]}`))
		remote.refresh(t.Context())
	}
	if warned, told := strings.Count(log.String(), "level=WARN"), strings.Count(log.String(), "level=INFO"); warned != 2 || told != 1 {
		t.Errorf("%d warnings, %d all-clears:\n%s", warned, told, &log)
	}
}

// issuer publishes a key set.
type issuer struct {
	*httptest.Server
	requests atomic.Int64
	mu       sync.Mutex
	status   int
	page     []byte
}

func newIssuer(t testing.TB) *issuer {
	i := &issuer{status: http.StatusOK, page: []byte(`{"keys":[]}`)}
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		i.requests.Add(1)
		i.mu.Lock()
		defer i.mu.Unlock()
		w.WriteHeader(i.status)
		_, _ = w.Write(i.page)
	}))
	t.Cleanup(i.Close)
	return i
}

func (i *issuer) says(status int, page []byte) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.status, i.page = status, page
}

// published is a public key as it goes into a set.
type published struct {
	id   string
	key  any
	alg  jwkset.ALG
	use  jwkset.USE
	also bool // with its private part, as careless issuers do
}

func keySet(t testing.TB, keys ...published) []byte {
	t.Helper()
	set := jwkset.JWKSMarshal{Keys: []jwkset.JWKMarshal{}}
	for _, k := range keys {
		jwk, err := jwkset.NewJWKFromKey(k.key, jwkset.JWKOptions{
			Marshal:  jwkset.JWKMarshalOptions{Private: k.also},
			Metadata: jwkset.JWKMetadataOptions{KID: k.id, ALG: k.alg, USE: k.use},
		})
		if err != nil {
			t.Fatal(err)
		}
		set.Keys = append(set.Keys, jwk.Marshal())
	}
	page, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return page
}
