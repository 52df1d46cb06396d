package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi/datamodel/high/base"
	v3 "github.com/pb33f/libopenapi/datamodel/high/v3"

	"odometer/api"
	"odometer/api/apitest"
	"odometer/cmd/internal/demo"
	"odometer/internal/soak"
)

// fuzz is a client that knows the API from its document alone.
type fuzz struct {
	*testing.T
	*rand.Rand
	doc      libopenapi.Document
	judge    validator.Validator
	server   *httptest.Server
	tokens   []string
	operator string              // a token that may do everything of an operator's
	known    map[string][]string // values that exist, by the parameter's name
	tame     bool                // the request at hand is meant to be answered
	seen     map[string]int      // answers by operation and status
	said     map[string]bool     // faults, each of which is reported once
}

func newFuzz(t *testing.T, doc libopenapi.Document, judge validator.Validator, server *httptest.Server) *fuzz {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if again := os.Getenv("ODOMETER_FUZZ_SEED"); again != "" {
		seed, _ = strconv.ParseUint(again, 10, 64)
	}
	t.Logf("seed %d: run it again with ODOMETER_FUZZ_SEED=%d", seed, seed)
	f := &fuzz{
		T: t, Rand: rand.New(rand.NewPCG(seed, 0)), doc: doc, judge: judge, server: server, seen: map[string]int{}, said: map[string]bool{},
		known: map[string][]string{
			"tenant_id": {demo.UnsubscribedTenant.String(), uuid.NewString()}, "job": {"report", "rollover"}, "finding_id": {"1", "2"},
			"timezone": {"UTC", "Europe/Berlin", "Asia/Kolkata"}, "group_by": {"agent", "action_type", "agent,action_type"},
			"agent": {"inbox", "invoice"}, "action_type": {"email_processed"}, "id": {"1-1", "1-40"}, "reason": {"malformed", "unknown_action"},
		},
	}
	scopes := []string{api.ReadScope, api.WriteScope}
	for _, tenant := range demo.Tenants {
		f.known["tenant_id"] = append(f.known["tenant_id"], tenant.ID.String())
		f.tokens = append(f.tokens, f.token(api.Claims{Tenant: tenant.ID, Scopes: scopes}))
	}
	f.operator = f.token(api.Claims{Role: api.Admin, Scopes: scopes})
	f.tokens = append(f.tokens, f.operator, f.operator, f.operator, f.token(api.Claims{Role: api.Admin}), "rubbish", "")
	return f
}

func (f *fuzz) token(c api.Claims) string {
	token, err := api.SignToken(apitest.Secret, c, time.Hour)
	if err != nil {
		f.Fatal(err)
	}
	return token
}

// run asks every operation many times.
func (f *fuzz) run() {
	model, err := f.doc.BuildV3Model()
	if err != nil {
		f.Fatal(err)
	}
	operations := 0
	for path, item := range model.Model.Paths.PathItems.FromOldest() {
		for method, op := range item.GetOperations().FromOldest() {
			operations++
			for range soak.Rounds(f, 60, 100) {
				f.ask(strings.ToUpper(method), path, op)
			}
			if f.seen[op.OperationId+" 200"]+f.seen[op.OperationId+" 202"] == 0 {
				f.Errorf("%s %s was never answered: %v", method, path, f.seen)
			}
		}
	}
	f.Logf("%d operations: %v", operations, f.seen)
}

// ask sends one request and has the answer judged.
func (f *fuzz) ask(method, path string, op *v3.Operation) {
	f.tame = f.IntN(3) == 0
	request := f.request(method, path, op)
	misspelt := !f.tame && f.IntN(10) == 0
	if misspelt {
		request.URL.RawQuery += "&" + pick(f, misspellings)
	}
	sent := request.Method + " " + request.URL.String()
	response, err := f.server.Client().Do(request)
	if err != nil {
		f.Fatalf("%s: %v", sent, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		f.Fatalf("%s: %v", sent, err)
	}
	f.seen[op.OperationId+" "+strconv.Itoa(response.StatusCode)]++
	if response.StatusCode == http.StatusInternalServerError {
		f.Errorf("%s is answered with a 500: %s", sent, body)
	}
	if misspelt && response.StatusCode < http.StatusBadRequest {
		f.Errorf("%s: status %d: something of the query was passed over", sent, response.StatusCode)
	}
	// The judge finds the operation by the path as it was sent.
	response.Body = io.NopCloser(bytes.NewReader(body))
	if ok, faults := f.judge.GetResponseBodyValidator().ValidateResponseBody(request, response); !ok {
		for _, fault := range faults {
			what := fault.Message
			for _, s := range fault.SchemaValidationErrors {
				what += fmt.Sprintf("\n  %s: %s", s.FieldPath, s.Reason)
			}
			if key := op.OperationId + what; !f.said[key] {
				f.said[key] = true
				f.Errorf("%s: status %d: %s\n%.300s", sent, response.StatusCode, what, body)
			}
		}
	}
}

func (f *fuzz) request(method, path string, op *v3.Operation) *http.Request {
	query := url.Values{}
	header := http.Header{}
	for _, p := range op.Parameters {
		value := f.value(p.Name, p.Schema.Schema())
		switch {
		case p.In == "path":
			if value == "" || strings.Contains(value, "/") {
				value = "x"
			}
			path = strings.ReplaceAll(path, "{"+p.Name+"}", url.PathEscape(value))
		case f.IntN(3) == 0, f.tame && f.IntN(2) == 0: // left out
		case p.In == "query":
			query.Add(p.Name, value)
		case p.In == "header":
			header.Set(p.Name, printableOnly(value))
		}
	}
	var body io.Reader
	if op.RequestBody != nil {
		media, text := f.body(op.RequestBody)
		body = strings.NewReader(text)
		header.Set("Content-Type", media)
	}
	request, err := http.NewRequestWithContext(f.Context(), method, f.server.URL+path+"?"+query.Encode(), body)
	if err != nil {
		f.Fatal(err)
	}
	request.Header = header
	token := pick(f, f.tokens)
	switch operators := strings.Contains(path, "/admin/"); {
	case operators && (f.tame || f.IntN(2) == 0):
		token = f.operator
	case f.tame:
		token = pick(f, f.tokens[:len(demo.Tenants)])
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	if f.IntN(4) == 0 {
		request.Header.Set("Accept", pick(f, []string{"text/csv", "application/json", "application/xml", "*/*;q=0", "rubbish"}))
	}
	return request
}

// hostile are values that fit nothing, or only by luck.
var hostile = []string{
	"", " ", "null", "0", "-1", "1e3", "9223372036854775808", "NaN", "true", "[]", "{}", "a,b", "%", "\x00", "\u202e", "é", "🦀",
	"'; drop table usage_events; --", "../../etc/passwd", strings.Repeat("x", 3000), "2026-02-30T00:00:00Z", "2026-11-25", "0001-01-01T00:00:00Z",
	"9999-12-31T23:59:59Z", "-infinity", "00000000-0000-0000-0000-000000000000", "Local", "America/Nowhere", "=1+1",
}

// misspellings are parts of a query that no operation reads.
var misspellings = []string{"form=2026-11-01T00:00:00Z", "agnet=inbox", "Limit=1", "tenant=x", "=", "%zz", "limit=1&limit=1"}

// value is one for a parameter: mostly one that its schema allows.
func (f *fuzz) value(name string, s *base.Schema) string {
	if !f.tame && f.IntN(4) == 0 {
		return pick(f, hostile)
	}
	if known := f.known[name]; len(known) > 0 {
		return pick(f, known)
	}
	switch {
	case s == nil || len(s.Type) == 0:
		return "x"
	case len(s.Enum) > 0:
		return s.Enum[f.IntN(len(s.Enum))].Value
	case s.Format == "date-time":
		return time.Now().Add(time.Duration(f.IntN(60*24)-50*24) * time.Hour).UTC().Format(time.RFC3339)
	case s.Format == "uuid":
		return uuid.NewString()
	case s.Type[0] == "integer", s.Type[0] == "number":
		return strconv.Itoa(f.IntN(120) + 1)
	case s.Type[0] == "boolean":
		return "true"
	}
	return pick(f, []string{"x", "a1b0c0de", "cus_acme", ""})
}

// body is one for an operation: an example of its media type, whole or damaged.
func (f *fuzz) body(b *v3.RequestBody) (media, text string) {
	var examples [][2]string
	for media, content := range b.Content.FromOldest() {
		if content.Example != nil {
			examples = append(examples, [2]string{media, exampleText(f, content.Example.Decode)})
		}
		for example := range content.Examples.ValuesFromOldest() {
			examples = append(examples, [2]string{media, exampleText(f, example.Value.Decode)})
		}
		if content.Schema != nil {
			examples = append(examples, [2]string{media, exampleText(f, func(v any) error {
				*v.(*any) = f.made("", content.Schema.Schema())
				return nil
			})})
		}
	}
	chosen := pick(f, examples)
	media, text = chosen[0], chosen[1]
	if f.tame {
		return media, text
	}
	switch f.IntN(6) {
	case 0:
		return media, pick(f, hostile)
	case 1:
		return media, text[:f.IntN(len(text)+1)]
	case 2:
		return pick(f, []string{"text/plain", "application/json; charset=latin1", "", "application/xml"}), text
	case 3:
		return media, strings.Replace(text, `"`, `"`+pick(f, []string{"\x00", "é", `\u0000`, "x"}), 1)
	}
	return media, text
}

// made is a value of a schema.
func (f *fuzz) made(name string, s *base.Schema) any {
	switch {
	case s == nil || len(s.Type) == 0:
		return nil
	case s.Type[0] == "object":
		object := map[string]any{}
		for name, property := range s.Properties.FromOldest() {
			if slices.Contains(s.Required, name) || f.IntN(3) == 0 {
				object[name] = f.made(name, property.Schema())
			}
		}
		return object
	case s.Type[0] == "array" && s.Items != nil && s.Items.IsA():
		return []any{f.made(strings.TrimSuffix(name, "s"), s.Items.A.Schema())}
	case s.Type[0] == "integer":
		return f.IntN(100)
	}
	return f.value(name, s)
}

// exampleText is an example as a client would send it: a string as it is.
func exampleText(t testing.TB, decode func(any) error) string {
	var v any
	if err := decode(&v); err != nil {
		t.Fatal(err)
	}
	if text, ok := v.(string); ok {
		return text
	}
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func pick[T any](f *fuzz, from []T) T { return from[f.IntN(len(from))] }

// printableOnly is what a client library lets through in a header.
func printableOnly(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, s)
}
