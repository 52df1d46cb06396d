package api

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"odometer/api/apitest"
)

// orderInput has an input of every sort that operations here have.
type orderInput struct {
	ID    string   `path:"id" format:"uuid"`
	Many  int      `query:"many" minimum:"1" maximum:"9"`
	Rest  int64    `query:"rest" minimum:"1"`
	Share float64  `query:"share" exclusiveMaximum:"1"`
	Whole bool     `query:"whole"`
	Parts []string `query:"parts" uniqueItems:"true" enum:"head,tail"`
	Name  string   `query:"name" pattern:"^[a-z]+$" patternDescription:"small letters"`
	Code  string   `query:"code" pattern:"^[0-9]$"`
	Body  struct {
		Word  string   `json:"word" minLength:"2" maxLength:"4"`
		Kind  string   `json:"kind,omitempty" enum:"one,two"`
		Count int      `json:"count,omitempty" maximum:"100"`
		List  []string `json:"list,omitempty" maxItems:"2"`
		Tuple []int    `json:"tuple,omitempty" minItems:"2"`
		For   string   `json:"for,omitempty" format:"uuid"`
		At    string   `json:"at,omitempty" format:"date-time"`
	}
}

const orderPath = "/api/v1/orders/0b7e4d1c-6f0e-4a53-9d55-3c1c0a3f7e01"

func orderAPI(t *testing.T) func(path, body string) *http.Response {
	t.Helper()
	a := New(Options{Keys: secretKeys(t), Log: apitest.Quiet})
	Register(a, Route{ID: "order", Method: http.MethodPost, Path: "/api/v1/orders/{id}", Scope: WriteScope, Tag: "test"},
		func(context.Context, Caller, *orderInput) (*something, error) { return &something{}, nil })
	h, bearer := a.Handler(), token(t, Claims{Tenant: someTenant, Scopes: []string{WriteScope}})
	return func(path, body string) *http.Response { return apitest.Do(h, http.MethodPost, path, bearer, body) }
}

// inside are words of libraries and of the language, which no client knows.
var inside = []string{"map[", "jsontext", "json:", "Go ", "expected", "invalid", "property", "EOF", "unmarshal", "%!", "\\u00"}

func TestValidationErrorsAreSentences(t *testing.T) {
	t.Parallel()
	post := orderAPI(t)
	const fits = `{"word":"abc"}`
	for _, c := range []struct{ path, body, want string }{
		{"/api/v1/orders/x", fits, `id is "x": it must be a UUID, as 0b7e4d1c-6f0e-4a53-9d55-3c1c0a3f7e01.`},
		{orderPath + "?many=x", fits, `many is "x": it must be a whole number from 1 to 9.`},
		{orderPath + "?many=1.5", fits, `many is "1.5": it must be a whole number from 1 to 9.`},
		{orderPath + "?many=10", fits, `many is 10: it must be at most 9.`},
		{orderPath + "?many=0", fits, `many is 0: it must be at least 1.`},
		{orderPath + "?rest=x", fits, `rest is "x": it must be a whole number.`},
		{orderPath + "?rest=99999999999999999999", fits, `rest is "99999999999999999999": it is too large.`},
		{orderPath + "?share=x", fits, `share is "x": it must be a number.`},
		{orderPath + "?share=1", fits, `share is 1: it must be less than 1.`},
		{orderPath + "?whole=x", fits, `whole is "x": it must be true or false.`},
		{orderPath + "?parts=head,head", fits, `parts is ["head","head"]: it must hold nothing twice.`},
		{orderPath + "?parts=foot", fits, `parts[0] is "foot": it must be one of head, tail.`},
		{orderPath + "?name=A%3C%22", fits, `name is "A<\"": it must be small letters.`},
		{orderPath + "?code=x", fits, `code is "x": it must match ^[0-9]$.`},
		{orderPath + "?many=0&code=x", fits, `many is 0: it must be at least 1; code is "x": it must match ^[0-9]$.`},
		{orderPath, ``, `The body is empty: send a JSON object of at, count, for, kind, list, tuple, word.`},
		{orderPath, `[]`, `The body is []: it must be an object.`},
		{orderPath, `"abc"`, `The body is "abc": it must be an object.`},
		{orderPath, `{}`, `word is missing.`},
		{orderPath, `{"Word":"abc"}`, `word is missing; "Word" is no field of the body. It has at, count, for, kind, list, tuple, word.`},
		{orderPath, `{"word":"abc","zzz":{"a":1}}`, `"zzz" is no field of the body. It has at, count, for, kind, list, tuple, word.`},
		{orderPath, `{"word":null}`, `word is null: it must be a string.`},
		{orderPath, `{"word":{"b":"<c>"}}`, `word is {"b":"<c>"}: it must be a string.`},
		{orderPath, `{"word":"a"}`, `word is "a": it must have at least 2 characters.`},
		{orderPath, `{"word":"abcde"}`, `word is "abcde": it must have at most 4 characters.`},
		{orderPath, `{"word":"abc","kind":"three"}`, `kind is "three": it must be one of one, two.`},
		{orderPath, `{"word":"abc","kind":""}`, `kind is "": it must be one of one, two.`},
		{orderPath, `{"word":"abc","count":"7"}`, `count is "7": it must be a whole number.`},
		{orderPath, `{"word":"abc","count":7.5}`, `count is 7.5: it must be a whole number.`},
		{orderPath, `{"word":"abc","count":1e3}`, `count is 1000: it must be at most 100.`},
		{orderPath, `{"word":"abc","list":"x"}`, `list is "x": it must be an array.`},
		{orderPath, `{"word":"abc","list":[1]}`, `list[0] is 1: it must be a string.`},
		{orderPath, `{"word":"abc","list":["1","2","3"]}`, `list is ["1","2","3"]: it must hold at most 2.`},
		{orderPath, `{"word":"abc","tuple":[1]}`, `tuple is [1]: it must hold at least 2.`},
		{orderPath, `{"word":"abc","for":"x"}`, `for is "x": it must be a UUID, as 0b7e4d1c-6f0e-4a53-9d55-3c1c0a3f7e01.`},
		{orderPath, `{"word":"abc","at":"today"}`, `at is "today": it must be a time of RFC 3339, as 2026-11-01T00:00:00Z.`},
		{orderPath, `{`, `The body cannot be read as JSON: it ends too early, at byte offset 1.`},
		{orderPath, `{"word":"ab`, `The body cannot be read as JSON: it ends too early, at byte offset 11.`},
		{orderPath, `{"word":"abc",}`, `The body cannot be read as JSON: "," at byte offset 13 is not what can stand there.`},
		{orderPath, `{"word":"abc"} x`, `The body cannot be read as JSON: "x" at byte offset 15 is not what can stand there.`},
		{orderPath, `word=abc`, `The body cannot be read as JSON: "w" at byte offset 0 is not what can stand there.`},
		{orderPath, "{\"word\":\"\xff\"}", `The body cannot be read as JSON: "\xff" at byte offset 9 is not what can stand there.`},
		{orderPath, `{"word":"abc","word":"abc"}`, `The body cannot be read as JSON: the name "word" is given twice.`},
		{orderPath, `{"word":"abc","count":1e999}`, `The body cannot be read as JSON: nothing can be made of the value 1e999.`},
	} {
		detail := apitest.WantProblem(t, post(c.path, c.body), "400 invalid-request")
		if detail != c.want {
			t.Errorf("%s %s:\n got %s\nwant %s", c.path, c.body, detail, c.want)
		}
		for _, word := range inside {
			if strings.Contains(detail, word) {
				t.Errorf("%s %s: %q tells of the inside: %s", c.path, c.body, word, detail)
			}
		}
	}
	if r := post(orderPath, fits); r.StatusCode != http.StatusOK {
		t.Errorf("status %d: %s", r.StatusCode, apitest.Body(t, r))
	}
}

func TestATooLargeBodyIsAnsweredWithItsBound(t *testing.T) {
	t.Parallel()
	body := `{"word":"` + strings.Repeat("x", 1<<20) + `"}`
	if got := apitest.WantProblem(t, orderAPI(t)(orderPath, body), "413 too-large"); got != "The body has 1048576 bytes or more: send a smaller one." {
		t.Error(got)
	}
}

// Of a long value a detail shows the beginning.
func TestADetailIsShortHoweverLongTheValue(t *testing.T) {
	t.Parallel()
	post := orderAPI(t)
	long := strings.Repeat("ü", 5000)
	for _, body := range []string{`{"word":"` + long + `"}`, `{"word":["` + long + `"]}`, `{"word":"abc","` + long + `":1}`} {
		if detail := apitest.WantProblem(t, post(orderPath, body), "400 invalid-request"); len([]rune(detail)) > 200 {
			t.Errorf("%d characters: %s", len([]rune(detail)), detail)
		}
	}
}
