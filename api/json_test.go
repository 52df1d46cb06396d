package api

import (
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

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

// An instance is the path as it was sent: decoded, it could hold anything.
func TestInstanceIsThePathAsItWasSent(t *testing.T) {
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

func TestEachHeaderIsSentOnce(t *testing.T) {
	t.Parallel()
	a := New(Options{Keys: secretKeys(t), Log: apitest.Quiet, Origins: []string{"https://app.example"}})
	RegisterPlain(a, Route{ID: "plain", Method: http.MethodGet, Path: someRoute, Scope: ReadScope},
		func(http.ResponseWriter, *http.Request, Caller) error {
			return NewProblem(TooLarge, "It is too large.")
		})
	r := httptest.NewRequest(http.MethodGet, someRoute, nil)
	r.Header.Set("Authorization", "Bearer "+goodToken(t))
	r.Header.Set("Origin", "https://app.example")
	w := httptest.NewRecorder()
	a.Handler().ServeHTTP(w, r)
	if got := w.Result().Header["Vary"]; !slices.Equal(got, []string{"Origin", "Authorization"}) {
		t.Errorf("Vary: %q", got)
	}
}

type somePlace struct {
	At int64  `json:"a"`
	ID string `json:"i"`
}

func TestACursorIsValidForItsListOnly(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		place := somePlace{rapid.Int64().Draw(t, "at"), rapid.StringMatching(`[ -~é]{0,20}`).Draw(t, "id")}
		words := rapid.SliceOfN(rapid.SampledFrom([]string{"", "a", "b", "events"}), 1, 3)
		list, other := words.Draw(t, "list"), words.Draw(t, "other")
		cursor := *WriteCursor(place, list...)
		if got, ok := ReadCursor[somePlace](cursor, list...); !ok || got != place {
			t.Fatalf("%s: %+v, %v; want %+v", cursor, got, ok, place)
		}
		if _, ok := ReadCursor[somePlace](cursor, other...); ok != slices.Equal(list, other) {
			t.Errorf("of %q, read as of %q: %v", list, other, ok)
		}
		raw, _ := base64.RawURLEncoding.DecodeString(cursor)
		raw[rapid.IntRange(0, len(raw)-1).Draw(t, "at byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		for _, wrong := range []string{base64.RawURLEncoding.EncodeToString(raw), cursor + "=", cursor[1:], cursor + "AA", "", "rubbish!"} {
			if got, ok := ReadCursor[somePlace](wrong, list...); ok {
				t.Errorf("%q: read %+v", wrong, got)
			}
		}
	})
	if got, ok := ReadCursor[somePlace](*WriteCursor(map[string]int{"a": 1, "x": 2})); ok {
		t.Errorf("of another form: read %+v", got)
	}
}
