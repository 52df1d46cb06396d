package httpingest

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"odometer/api"
	"odometer/api/apitest"
	"odometer/ingest"
	"odometer/ingest/natstest"
	"odometer/ingest/publisher"
	"odometer/internal/testenv"
)

const tenantToken = "0b6e1a52-7f3c-4a60-9d0a-61a3f0b7c2d5"

var tenant = uuid.MustParse(tenantToken)

// testServer is the handler behind a real socket, and the stream behind it.
type testServer struct {
	*httptest.Server
	env   *testenv.Stream
	gate  *api.Gate
	token string
}

// soon bounds a test's waiting; no test needs nearly as long.
func soon(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// open starts a server; change may be nil.
func open(t testing.TB, change func(*Options), opts ...natstest.Option) *testServer {
	t.Helper()
	h := &testServer{env: testenv.NewStream(t, ingest.StreamConfig{}, opts...), token: token(t, tenant)}
	var handler http.Handler
	handler, h.gate = newAPI(t, h.env.NATS, change)
	h.Server = httptest.NewServer(handler)
	t.Cleanup(h.Close)
	return h
}

// newAPI is the API with nothing but the route.
func newAPI(t testing.TB, nc *nats.Conn, change func(*Options)) (http.Handler, *api.Gate) {
	t.Helper()
	pub, err := publisher.New(nc, publisher.AttemptTimeout(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := api.KeysFromSecret(apitest.Secret, api.Expect{})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Publisher: pub, Log: apitest.Quiet}
	if change != nil {
		change(&o)
	}
	a := api.New(api.Options{Keys: keys, Log: apitest.Quiet})
	h := newHandler(o)
	h.register(a)
	return a.Handler(), h.gate
}

func token(t testing.TB, of uuid.UUID) string {
	t.Helper()
	text, err := api.SignToken(apitest.Secret, api.Claims{Tenant: of, Scopes: []string{api.WriteScope}}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// post posts a body; header alternates names and values.
func (h *testServer) post(t testing.TB, body, contentType string, header ...string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(soon(t), http.MethodPost, h.URL+Path, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+h.token)
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { answer.Body.Close() })
	return answer
}

// accepted is the answer of a request that was taken. Its form is the
// contract's: every field is there.
func accepted(t testing.TB, r *http.Response) Answer {
	t.Helper()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	if r.StatusCode != http.StatusAccepted || r.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("status %d, %s: %s", r.StatusCode, r.Header.Get("Content-Type"), text)
	}
	var a Answer
	if err := json.Unmarshal(text, &a); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	if again, err := json.Marshal(a); err != nil || !sameJSON(again, text) {
		t.Fatalf("answered %s\n    want %s", text, again)
	}
	return a
}

// sameJSON reports whether two texts are the same value, member by member.
func sameJSON(a, b []byte) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && cmp.Equal(x, y)
}

// eventText is a valid event under a key, with more members.
func eventText(key string, members ...string) string {
	text := `{"idempotency_key":"` + key + `","agent":"inbox","action_type":"email_processed"`
	for _, m := range members {
		text += "," + m
	}
	return text + "}"
}

// cloudText is the same as a CloudEvent.
func cloudText(key string, members ...string) string {
	text := `{"specversion":"1.0","id":"` + key + `","source":"/a","type":"inbox.email_processed"`
	for _, m := range members {
		text += "," + m
	}
	return text + "}"
}

// readToken may read and not write.
func readToken(t testing.TB) string {
	t.Helper()
	text, err := api.SignToken(apitest.Secret, api.Claims{Tenant: tenant, Scopes: []string{api.ReadScope}}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// openFull starts a server whose stream takes nothing more.
func openFull(t testing.TB, change func(*Options)) *testServer {
	t.Helper()
	h := open(t, change)
	h.env.Fill()
	return h
}
