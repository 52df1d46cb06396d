package query

import (
	"bufio"
	"encoding/csv"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"odometer/api"
	"odometer/api/apitest"
)

func TestAcceptChoosesPageOrFile(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := exampleCustomer(b)
	b.add(tenant, Event{OccurredAt: instant("2026-11-10T00:00:00Z")}, Event{OccurredAt: instant("2026-11-11T00:00:00Z")})
	h, bearer := newAPI(t, b.pool, 0), reads(t, tenant)
	for accept, want := range map[string]string{
		"": jsonType, "*/*": jsonType, jsonType: jsonType, "text/html, application/xhtml+xml, */*;q=0.8": jsonType,
		csvType: csvType, "text/csv;q=0.9, application/json;q=0.5": csvType, "text/csv, application/json": jsonType,
	} {
		r := apitest.Get(h, eventsRoute+novemberQuery, bearer, "Accept", accept)
		if got, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); got != want {
			t.Errorf("Accept %q: %s, want %s", accept, got, want)
		}
		if vary := strings.Join(r.Header.Values("Vary"), " "); !strings.Contains(vary, "Accept") || !strings.Contains(vary, "Authorization") {
			t.Errorf("Vary: %s", vary)
		}
	}
	b.removed(tenant, "2026-11-22T12:00:00Z")
	r := apitest.Get(h, eventsRoute+novemberQuery+"&limit=1", bearer, "Accept", csvType)
	for name, want := range map[string]string{
		"Odometer-Complete-From": "2026-08-24T12:05:00Z",
		"Content-Type":           "text/csv; charset=utf-8; header=present",
		"Content-Disposition":    `attachment; filename="usage-events-20261123T071533Z.csv"`,
		"Odometer-As-Of":         "2026-11-23T07:15:33.120Z",
		"Cache-Control":          "private, no-cache",
	} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	rows, err := csv.NewReader(r.Body).ReadAll()
	if err != nil || len(rows) != 2 || rows[1][8] != "2026-11-11T00:00:00Z" {
		t.Errorf("%v %v", rows, err)
	}
}

func TestPagesOverHTTPAreTheWholeList(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := exampleCustomer(b)
	b.many(tenant, 250, 1)
	h, bearer := newAPI(t, b.pool, 0), reads(t, tenant)
	var keys []string
	next := ""
	for range 3 {
		page := apitest.Decode[struct {
			Events []struct {
				Key string `json:"idempotency_key"`
			}
			Next *string `json:"next_cursor"`
		}](t, apitest.Get(h, eventsRoute+novemberQuery+"&limit=100"+next, bearer))
		for _, e := range page.Events {
			keys = append(keys, e.Key)
		}
		if (page.Next == nil) != (len(keys) == 250) {
			t.Fatalf("after %d events the cursor is %v", len(keys), page.Next)
		}
		if page.Next != nil {
			next = "&cursor=" + *page.Next
		}
	}
	rows, err := csv.NewReader(apitest.Get(h, eventsRoute+novemberQuery, bearer, "Accept", csvType).Body).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var exported []string
	for _, row := range rows[1:] {
		exported = append(exported, row[6])
	}
	if diff := cmp.Diff(keys, exported); diff != "" {
		t.Error(diff)
	}
}

// large is how many events make a file that is larger than what lies on the
// way between server and client, about 20 MB.
const large = 12_000

func serve(t *testing.T, h http.Handler) *httptest.Server {
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server
}

// file asks for one over a real connection.
func file(t *testing.T, server *httptest.Server, bearer string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+eventsRoute+novemberQuery, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+bearer)
	r.Header.Set("Accept", csvType)
	answer, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { answer.Body.Close() })
	return answer
}

// A file's headers are read without its events, and whatever room there is for
// files: the tenant's own is being written, at the pace of its reader.
func TestHeadOfAnExportTakesNoSlot(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := exampleCustomer(b)
	b.many(tenant, large, 40)
	h, bearer := newAPI(t, b.pool, 0), reads(t, tenant)
	whole := file(t, serve(t, h), bearer)
	r := apitest.Do(h, http.MethodHead, eventsRoute+novemberQuery, bearer, "", "Accept", csvType)
	if body := apitest.Body(t, r); r.StatusCode != http.StatusOK || body != "" {
		t.Fatalf("status %d: %s", r.StatusCode, body)
	}
	if second := file(t, serve(t, h), bearer); second.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a second file: status %d, so that the first took no place", second.StatusCode)
	}
	for _, name := range []string{"Content-Type", "Content-Disposition", "Odometer-As-Of", "Odometer-Complete-From", "Vary"} {
		if got, want := r.Header.Values(name), whole.Header.Values(name); !slices.Equal(got, want) {
			t.Errorf("%s: %q, of the file %q", name, got, want)
		}
	}
	if length := r.Header.Get("Content-Length"); length != "" {
		t.Errorf("the length of a file that was not written is told: %s", length)
	}
	apitest.WantProblem(t, apitest.Do(h, http.MethodHead, eventsRoute+"?cursor=x", bearer, "", "Accept", csvType), "400 invalid-request")
}

func TestExportIsAbortedWhenTheDatabaseFails(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := exampleCustomer(b)
	b.many(tenant, large, 40)
	log := &syncBuffer{}
	server := serve(t, newAPI(t, b.pool, 0, func(o *api.Options) { o.Log = slog.New(slog.NewTextHandler(log, nil)) }))
	answer := file(t, server, reads(t, tenant))
	body := bufio.NewReader(answer.Body)
	if line, err := body.ReadString('\n'); err != nil || line != csvHeader {
		t.Fatalf("%q: %v", line, err)
	}
	b.exec(endFetchSQL)
	if _, err := io.Copy(io.Discard, body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the file looks whole: %v", err)
	}
	server.Close() // the line is written by then
	if text := log.String(); strings.Count(text, "export of events aborted") != 1 {
		t.Errorf("log:\n%s", text)
	}
}

func TestClientThatHangsUpFreesItsSlot(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	var asked atomic.Int64 // two seconds pass between any two requests: no limit is reached
	h := newAPI(t, b.pool, 0, func(o *api.Options) {
		o.Now = func() time.Time { return time.Now().Add(time.Duration(asked.Add(1)) * 2 * time.Second) }
	})
	server := serve(t, h)
	var answers []*http.Response
	var bearers []string
	for range maxExports {
		tenant := exampleCustomer(b)
		b.many(tenant, large, 40)
		bearers = append(bearers, reads(t, tenant))
		answers = append(answers, file(t, server, bearers[len(bearers)-1]))
	}
	late := reads(t, exampleCustomer(b))
	for _, bearer := range []string{late, bearers[0]} {
		detail := apitest.WantProblem(t, file(t, server, bearer), "503 unavailable")
		if !strings.Contains(detail, "1 of a tenant, 4 in all") {
			t.Errorf("detail %q", detail)
		}
	}
	if r := apitest.Get(h, eventsRoute, bearers[0]); r.StatusCode != http.StatusOK {
		t.Errorf("a page beside the files: status %d", r.StatusCode)
	}
	answers[0].Body.Close()
	for {
		r := file(t, server, late)
		if r.StatusCode == http.StatusOK {
			break
		}
		apitest.WantProblem(t, r, "503 unavailable")
	}
}
