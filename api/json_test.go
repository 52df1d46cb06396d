package api

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"odometer/api/apitest"
)

// Clients and people read answers as they come.
func TestAnswersAreWrittenWithoutHTMLEscapes(t *testing.T) {
	t.Parallel()
	a := New(Options{Keys: secretKeys(t), Log: apitest.Quiet})
	registerSomething(a, 0)
	a.huma.OpenAPI().Info.Description = "<b>"
	h := a.Handler()
	for target, want := range map[string]string{
		someRoute + "?word=%3Ca%3E%26": `word is \"<a>&\"`,
		someRoute + "?%3Ca%3E=1":       `\"<a>\" is no parameter`,
		"/openapi.json":                `<b>`,
	} {
		if text := apitest.Body(t, apitest.Get(h, target, goodToken(t))); !strings.Contains(text, want) || strings.Contains(text, `\u003`) {
			t.Errorf("%s: lacks %s or has an escape: %.500s", target, want, text)
		}
	}
}

// A path is told as it was written: what it stands for may hold anything.
func TestInstanceIsThePathAsItWasAskedFor(t *testing.T) {
	t.Parallel()
	h := handler(t)
	for _, path := range []string{someRoute + "%0Ax", "/%22%3Cb%3E", someRoute} {
		problem := func(query string) string {
			return apitest.Body(t, apitest.Get(h, path+query, goodToken(t)))
		}
		for _, query := range []string{"?word=three", "?fails=refused"} {
			if text := problem(query); !strings.Contains(text, `"instance":"`+path+`"`) {
				t.Errorf("%s%s: %s", path, query, text)
			}
		}
	}
}

func TestAHeaderIsSaidOnce(t *testing.T) {
	t.Parallel()
	a := New(Options{Keys: secretKeys(t), Log: apitest.Quiet, Origins: []string{"https://app.example"}})
	RegisterPlain(a, Route{ID: "plain", Method: http.MethodGet, Path: someRoute, Scope: ReadScope},
		func(http.ResponseWriter, *http.Request, Caller) error { return Refuse(TooLarge, "It is too large.") })
	r := httptest.NewRequest(http.MethodGet, someRoute, nil)
	r.Header.Set("Authorization", "Bearer "+goodToken(t))
	r.Header.Set("Origin", "https://app.example")
	w := httptest.NewRecorder()
	a.Handler().ServeHTTP(w, r)
	if got := w.Result().Header["Vary"]; !slices.Equal(got, []string{"Origin", "Authorization"}) {
		t.Errorf("Vary: %q", got)
	}
}
