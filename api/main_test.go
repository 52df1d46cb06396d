package api

import (
	"context"
	"net/http"
	"testing"
	"time"

	"odometer/api/apitest"
)

// someRoute is an operation that answers every authorized caller.
const someRoute = "/api/v1/something"

type something struct {
	Body struct {
		Tenant string `json:"tenant"`
		Word   string `json:"word"`
	}
}

type somethingAsked struct {
	Word  string `query:"word" enum:"one,two" default:"one"`
	Fails string `query:"fails"`
}

// secret signs the tests' tokens.
var secret = apitest.Secret

func secretKeys(t testing.TB) *Keys {
	t.Helper()
	keys, err := KeysFromSecret(secret, Expect{})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func token(t testing.TB, c Claims) string {
	t.Helper()
	signed, err := SignToken(secret, c, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// handlerWith is an API with someRoute.
func handlerWith(o Options) http.Handler {
	a := New(o)
	registerSomething(a, somePerMinute)
	return a.Handler()
}

// somePerMinute is the rate limit of someRoute.
const somePerMinute = 10

func registerSomething(a *API, perMinute int) {
	Register(a, Route{
		ID: "something", Method: http.MethodGet, Path: someRoute, Tag: "test", Scope: ReadScope,
		Problems: []Kind{NotFound}, PerMinute: perMinute, Example: map[string]string{"tenant": "t", "word": "one"},
	}, func(_ context.Context, who Caller, in *somethingAsked) (*something, error) {
		if in.Fails != "" {
			return nil, failures[in.Fails]()
		}
		out := &something{}
		out.Body.Tenant, out.Body.Word = who.Tenant.String(), in.Word
		return out, nil
	})
}

// failures are what an operation can fail with, by name.
var failures = map[string]func() error{
	"refused": func() error { return NewProblem(NotFound, "There is no such thing.") },
	"broken":  func() error { return context.DeadlineExceeded },
	"bug":     func() error { panic("a bug") },
	"inside":  func() error { return errInside },
}

func handler(t testing.TB) http.Handler {
	t.Helper()
	return handlerWith(Options{Keys: secretKeys(t), Log: apitest.Quiet})
}
