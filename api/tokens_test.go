package api

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
)

var someTenant = uuid.MustParse("7b0c4d1e-8f7a-4b6e-9d4e-111111111111")

// said are the claims of a good token, changed by what the test says; nil
// takes a claim away.
func said(change map[string]any) jwt.MapClaims {
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
	return signed(t, jwt.SigningMethodHS256, secret, nil, said(change))
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
