package api

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"odometer/api/apitest"
)

// exampleOf is the detail that the document shows for a refusal of an operation.
func exampleOf(t *testing.T, h http.Handler, method, path, status, name string) string {
	t.Helper()
	var document struct {
		Paths map[string]map[string]struct {
			Responses map[string]struct {
				Content map[string]struct {
					Examples map[string]struct{ Value Problem }
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(apitest.Body(t, apitest.Get(h, "/openapi.json", ""))), &document); err != nil {
		t.Fatal(err)
	}
	return document.Paths[path][strings.ToLower(method)].Responses[status].Content[problemType].Examples[name].Value.Detail
}

// The examples are true: each operation answers with its own.
func TestExamplesOfProblemsAreWhatOperationsAnswer(t *testing.T) {
	t.Parallel()
	h := queryAPI(t)
	reads, writes := []string{ReadScope}, []string{WriteScope}
	for target, c := range map[string]struct{ has, lacks []string }{
		"GET " + someRoute:    {reads, writes},
		"POST /api/v1/w":      {writes, reads},
		"GET /api/v1/admin/x": {reads, writes},
	} {
		method, path, _ := strings.Cut(target, " ")
		allowed, other := token(t, Claims{Role: Admin, Tenant: someTenant, Scopes: c.has}), token(t, Claims{Role: Admin, Tenant: someTenant, Scopes: c.lacks})
		for status, r := range map[string]*http.Response{
			"400 invalid-request": apitest.Do(h, method, path+"?tenant=acme", allowed, ""),
			"403 forbidden":       apitest.Do(h, method, path, other, ""),
			"405 invalid-request": apitest.Do(h, http.MethodDelete, path, allowed, ""),
		} {
			number, name, _ := strings.Cut(status, " ")
			if got, example := apitest.WantProblem(t, r, status), exampleOf(t, h, method, path, number, name); got != example {
				t.Errorf("%s, %s:\n answered %s\nexample %s", target, status, got, example)
			}
		}
	}
	if got := exampleOf(t, h, http.MethodGet, someRoute, "429", "rate-limited"); got != "" {
		t.Errorf("without a limit: %s", got)
	}
	if got := exampleOf(t, handler(t), http.MethodGet, someRoute, "429", "rate-limited"); !strings.HasPrefix(got, "At most 10 requests a minute") {
		t.Errorf("with a limit: %s", got)
	}
}
