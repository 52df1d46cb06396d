package api

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/time/rate"
)

const (
	jwksFresh   = 5 * time.Minute // how long a removed key is still accepted, at most
	jwksRetry   = 2 * time.Second // between tries while the issuer does not answer
	jwksTimeout = 5 * time.Second // of one try
	jwksBytes   = 1 << 20         // what a key set may have at most
	minRSA      = 2048            // bits
)

// A token with an unknown key has the set fetched again, so that a rotation
// needs no restart; random key ids must not become a flood at the issuer.
const (
	jwksUnknownEvery = 2 * time.Second
	jwksUnknownBurst = 3
)

// errKeysUnknown means that a token's key is not cached and that the issuer does
// not answer, so it is not known whether the token is valid.
var errKeysUnknown = errors.New("the key set cannot be fetched")

// KeysFromURL accepts tokens signed by RS256, ES256 or EdDSA with a key of the
// JSON Web Key Set at the address (http or https). The set is fetched until
// ctx ends. An issuer that does not answer is no error: tokens whose key is
// not known meanwhile can be neither accepted nor refused.
func KeysFromURL(ctx context.Context, address string, expect Expect, log *slog.Logger) (*Keys, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("JWKS URL %q: want an address like https://issuer.example/.well-known/jwks.json", address)
	}
	remote := &remoteKeys{
		Storage:  jwkset.NewMemoryStorage(),
		address:  address,
		client:   &http.Client{Timeout: jwksTimeout},
		log:      log.With("jwks_host", u.Host),
		unknown:  rate.NewLimiter(rate.Every(jwksUnknownEvery), jwksUnknownBurst),
		lastFail: errKeysUnknown,
	}
	go remote.keepFresh(ctx)
	return remote.keys(expect)
}

// remoteKeys are the issuer's keys as they were last fetched. When a key is
// missing, the set is fetched again before the token is rejected. (jwkset's own client does that
// too, but refuses all but the first of the requests that meet a new key at
// the same time, and one bad key spoils the set.)
type remoteKeys struct {
	jwkset.Storage
	address string
	client  *http.Client
	log     *slog.Logger
	unknown *rate.Limiter

	tries    atomic.Int64
	mu       sync.Mutex // held while fetching, so that concurrent requests fetch once
	lastFail error      // of the last try, nil when it succeeded
}

func (k *remoteKeys) keys(expect Expect) (*Keys, error) {
	found, err := keyfunc.New(keyfunc.Options{Storage: k})
	if err != nil {
		return nil, fmt.Errorf("keys of %q: %w", k.address, err)
	}
	return newKeys(found.KeyfuncCtx, expect,
		jwt.SigningMethodRS256.Alg(), jwt.SigningMethodES256.Alg(), jwt.SigningMethodEdDSA.Alg()), nil
}

// KeyRead finds a key by its id.
func (k *remoteKeys) KeyRead(ctx context.Context, id string) (jwkset.JWK, error) {
	key, err := k.Storage.KeyRead(ctx, id)
	if !errors.Is(err, jwkset.ErrKeyNotFound) {
		return key, err
	}
	if err := k.fetchMissing(ctx); err != nil {
		return jwkset.JWK{}, err
	}
	return k.Storage.KeyRead(ctx, id)
}

// KeyReadAll is what a token without a key id is tried with.
func (k *remoteKeys) KeyReadAll(ctx context.Context) ([]jwkset.JWK, error) {
	keys, err := k.Storage.KeyReadAll(ctx)
	if err != nil || len(keys) > 0 {
		return keys, err
	}
	if err := k.fetchMissing(ctx); err != nil {
		return nil, err
	}
	return k.Storage.KeyReadAll(ctx)
}

// fetchMissing fetches the set, unless another request has done so meanwhile or
// the rate is exceeded. It returns errKeysUnknown when the last try failed.
func (k *remoteKeys) fetchMissing(ctx context.Context) error {
	before := k.tries.Load()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.tries.Load() == before && k.unknown.Allow() {
		// Others wait for this fetch: it must not end because one client hung up.
		k.refresh(context.WithoutCancel(ctx))
	}
	return k.lastFail
}

// keepFresh fetches the set every jwksFresh, until ctx ends.
func (k *remoteKeys) keepFresh(ctx context.Context) {
	for ctx.Err() == nil {
		k.mu.Lock()
		k.refresh(ctx)
		pause := jwksFresh
		if k.lastFail != nil {
			pause = jwksRetry
		}
		k.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// refresh replaces the cached keys by the issuer's. When it fails, the cached
// keys stay valid. It logs each change once. The caller holds mu.
func (k *remoteKeys) refresh(ctx context.Context) {
	first := k.tries.Add(1) == 1
	keys, ignored, err := k.fetch(ctx)
	if err == nil {
		err = k.Storage.KeyReplaceAll(ctx, keys)
	}
	switch {
	case ctx.Err() != nil:
	case err == nil && (first || k.lastFail != nil):
		k.log.Info("token keys fetched", "keys", len(keys), "ignored", ignored)
	case err != nil && (first || k.lastFail == nil):
		k.log.Warn("token keys cannot be fetched: tokens with a key that is not cached get 503", "err", err)
	}
	k.lastFail = nil
	if err != nil {
		k.lastFail = errKeysUnknown
	}
}

func (k *remoteKeys) fetch(ctx context.Context) (keys []jwkset.JWK, ignored int, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, k.address, nil)
	if err != nil {
		return nil, 0, err
	}
	answer, err := k.client.Do(request)
	if err != nil {
		return nil, 0, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, 0, fmt.Errorf("status %s", answer.Status)
	}
	var set jwkset.JWKSMarshal
	if err := json.NewDecoder(io.LimitReader(answer.Body, jwksBytes)).Decode(&set); err != nil {
		return nil, 0, fmt.Errorf("read key set: %w", err)
	}
	// An empty array takes all keys back. No array is another kind of page.
	if set.Keys == nil {
		return nil, 0, errors.New("the answer is not a key set")
	}
	for _, encoded := range set.Keys {
		key, err := jwkset.NewJWKFromMarshal(encoded, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
		if err != nil || !verifies(key) {
			ignored++
			continue
		}
		keys = append(keys, key)
	}
	return keys, ignored, nil
}

// verifies reports whether a key is one for signatures by the accepted algorithms.
func verifies(key jwkset.JWK) bool {
	if use := key.Marshal().USE; use != "" && use != jwkset.UseSig {
		return false
	}
	switch public := key.Key().(type) {
	case *rsa.PublicKey:
		return public.N.BitLen() >= minRSA
	case *ecdsa.PublicKey:
		return public.Curve == elliptic.P256()
	case ed25519.PublicKey:
		return true
	}
	return false
}
