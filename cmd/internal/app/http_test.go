package app

import (
	"net/http"
	"strings"
	"testing"

	"odometer/api"
	"odometer/api/apitest"
	"odometer/cmd/internal/cli"
	"odometer/ingest/natstest"
)

// Whatever services run, an API's description comes with the page that shows
// it; the dashboard comes with what it shows.
func TestDocumentationIsServedByIngestAloneToo(t *testing.T) {
	t.Parallel()
	keys, err := api.KeysFromSecret(apitest.Secret, api.Expect{})
	if err != nil {
		t.Fatal(err)
	}
	s := Services{Terminal: cli.NewTerminal(t.Output(), t.Output(), "text", "warn"), NATS: natstest.Run(t).Connect(t), Ingest: true, Keys: keys, Registry: NewRegistry()}
	h, err := s.httpHandler(nil)
	if err != nil {
		t.Fatal(err)
	}
	page := apitest.Get(h, "/docs", "")
	text := apitest.Body(t, page)
	if page.StatusCode != http.StatusOK || page.Header.Get("Content-Security-Policy") == "" {
		t.Fatalf("/docs: status %d", page.StatusCode)
	}
	for part := range strings.SplitSeq(text, `"`) {
		if strings.HasPrefix(part, "/") {
			if r := apitest.Get(h, part, ""); r.StatusCode != http.StatusOK {
				t.Errorf("%s, which the page loads: status %d", part, r.StatusCode)
			}
		}
	}
	apitest.WantProblem(t, apitest.Get(h, "/", ""), "404 not-found")
}
