package httpingest

import (
	"net/http"
	"strings"
	"testing"

	"odometer/api/apitest"
)

// document is what the API's description says of the refusals of an operation,
// by status and name.
type document struct {
	Paths map[string]map[string]struct {
		Responses map[string]struct {
			Content map[string]struct {
				Examples map[string]struct {
					Value struct{ Detail string }
				}
			}
		}
	}
}

// The examples are true: asked so, the operation answers with them.
func TestExamplesOfProblemsAreWhatIsAnswered(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	responses := apitest.Decode[document](t, apitest.Get(h.Config.Handler, "/openapi.json", "")).Paths[Path]["post"].Responses
	large := strings.Repeat(" ", maxBody+1)
	for status, r := range map[string]*http.Response{
		"400 invalid-request":        h.post(t, `[{"agent":"inbox"},]`, plain),
		"403 forbidden":              apitest.Do(h.Config.Handler, http.MethodPost, Path, readToken(t), "{}"),
		"405 invalid-request":        apitest.Do(h.Config.Handler, http.MethodDelete, Path, h.token, ""),
		"413 too-large":              h.post(t, large, plain),
		"415 unsupported-media-type": h.post(t, "x", "text/plain"),
	} {
		number, name, _ := strings.Cut(status, " ")
		example := responses[number].Content["application/problem+json"].Examples[name].Value.Detail
		if got := apitest.WantProblem(t, r, status); got != example {
			t.Errorf("%s:\n answered %s\nexample %s", status, got, example)
		}
	}
	if _, limited := responses["429"]; limited {
		t.Error("nothing limits how often events are posted, and the document has a 429")
	}
}
