package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"odometer"
	"odometer/api"
	"odometer/api/apitest"
)

// acted is what the other stages were asked to do.
type acted struct {
	letters []odometer.Position
	job     string
	paused  bool
	who     string
}

// newAPI is the operators' API over a database; actions are recorded.
func (b *testEnv) newAPI(did *acted) http.Handler {
	b.Helper()
	keys := get[*api.Keys](b)(api.KeysFromSecret(apitest.Secret, api.Expect{}))
	a := api.New(api.Options{Keys: keys, Log: apitest.Quiet})
	Register(a, Options{
		Pool: b.pool,
		RetryDeadLetters: func(_ context.Context, ids []odometer.Position, who string) (outcomes []DeadLetterOutcome, err error) {
			did.letters, did.who = ids, who
			for _, at := range slices.Backward(ids) {
				outcomes = append(outcomes, DeadLetterOutcome{ID: deadLetterID(at), State: "retried"})
			}
			return outcomes, nil
		},
		Jobs: func(context.Context) ([]Job, error) { return []Job{{Name: "report", DueAt: at(0)}}, nil },
		SetPaused: func(_ context.Context, job string, paused bool, who string) error {
			if job != "report" {
				return fmt.Errorf("%w: %s", ErrNoJob, job)
			}
			did.job, did.paused, did.who = job, paused, who
			return nil
		},
	})
	return a.Handler()
}

// bearer is a token; role "" is a tenant's.
func bearer(t testing.TB, role api.Role, subject string, scopes ...string) string {
	t.Helper()
	c := api.Claims{Subject: subject, Role: role, Scopes: scopes}
	if role != api.Admin {
		c.Tenant = uuid.New()
	}
	return get[string](t)(api.SignToken(apitest.Secret, c, time.Hour))
}

// operator is a token that may do everything.
func operator(t testing.TB) string {
	return bearer(t, api.Admin, "ops@example.com", api.ReadScope, api.WriteScope)
}

// route is one of the operators', ready to be asked.
type route struct{ method, path string }

// routes are all that the document has.
func routes(t testing.TB, h http.Handler) []route {
	t.Helper()
	document := apitest.Decode[struct {
		Paths map[string]map[string]json.RawMessage `json:"paths"`
	}](t, apitest.Get(h, "/openapi.json", ""))
	fill := strings.NewReplacer("{tenant_id}", uuid.NewString(), "{job}", "report", "{finding_id}", "1")
	var all []route
	for path, operations := range document.Paths {
		for method := range operations {
			all = append(all, route{strings.ToUpper(method), fill.Replace(path)})
		}
	}
	if len(all) != 13 {
		t.Fatalf("%d routes: %v", len(all), all)
	}
	return all
}

func TestOnlyOperatorsAreAuthorized(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	did := &acted{}
	h := b.newAPI(did)
	tenant := bearer(t, api.Tenant, "customer", api.ReadScope, api.WriteScope)
	reader := bearer(t, api.Admin, "reader", api.ReadScope)
	writer := bearer(t, api.Admin, "writer", api.WriteScope)
	for _, r := range routes(t, h) {
		apitest.WantProblem(t, apitest.Do(h, r.method, r.path, "", "{}"), "401 unauthorized")
		apitest.WantProblem(t, apitest.Do(h, r.method, r.path, tenant, "{}"), "403 forbidden")
		without := reader
		if r.method == http.MethodGet {
			without = writer
		}
		apitest.WantProblem(t, apitest.Do(h, r.method, r.path, without, "{}"), "403 forbidden")
	}
	if did.who != "" {
		t.Errorf("something was done by %q", did.who)
	}
}

func TestEachRouteHasItsOwnRateLimit(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	h := b.newAPI(&acted{})
	first, second := operator(t), bearer(t, api.Admin, "another", api.ReadScope, api.WriteScope)
	for _, r := range routes(t, h) {
		for range perMinute {
			if got := apitest.Do(h, r.method, r.path, first, "?"); got.StatusCode == http.StatusTooManyRequests || got.StatusCode >= 500 {
				t.Fatalf("%v: status %d: %s", r, got.StatusCode, apitest.Body(t, got))
			}
		}
		apitest.WantProblem(t, apitest.Do(h, r.method, r.path, first, "?"), "429 rate-limited")
		if got := apitest.Do(h, r.method, r.path, second, "?"); got.StatusCode == http.StatusTooManyRequests {
			t.Errorf("%v: another operator pays for the first", r)
		}
	}
}

// What an operator does is written down in the operator's name, whatever the
// issuer of the token has put there.
func TestActionsAreRecordedWithTheCaller(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	b.deadLetter(1, uuid.New(), odometer.UnknownAction, "{}")
	did := &acted{}
	h := b.newAPI(did)
	for subject, want := range map[string]string{
		"ops@example.com":          "ops@example.com",
		"":                         "api",
		"\x00 \u202e":              "api",
		"a\x00b\u202ec\n":          "abc",
		strings.Repeat("ä", 1_000): strings.Repeat("ä", 200),
	} {
		b.exec(`insert into audit_findings (kind, subject, detail, found_by) values ('job_stale', gen_random_uuid()::text, 'x', 'alerts')`)
		var id int64
		if err := b.pool.QueryRow(t.Context(), `select max(finding_id) from audit_findings`).Scan(&id); err != nil {
			t.Fatal(err)
		}
		who := bearer(t, api.Admin, subject, api.WriteScope)
		post := func(path, body string) *http.Response { return apitest.Do(h, http.MethodPost, base+path, who, body) }

		apitest.Decode[RetryResult](t, post("dead-letters/retry", `{"ids":["1-1"]}`))
		if did.who != want {
			t.Errorf("%q: retried by %q, want %q", subject, did.who, want)
		}
		did.who = ""
		apitest.Decode[JobState](t, post("jobs/report/pause", ""))
		if did.who != want || !did.paused {
			t.Errorf("%q: paused by %q, want %q", subject, did.who, want)
		}
		did.who = ""
		apitest.Decode[JobState](t, post("jobs/report/resume", ""))
		if did.who != want || did.paused {
			t.Errorf("%q: resumed by %q, want %q", subject, did.who, want)
		}
		f := apitest.Decode[Finding](t, post(fmt.Sprintf("findings/%d/resolve", id), `{"resolution":" mended "}`))
		if *f.ResolvedBy != want || *f.Resolution != "mended" || f.ResolvedAt == nil {
			t.Errorf("%q: resolved by %q: %q", subject, *f.ResolvedBy, *f.Resolution)
		}
	}
}

func TestInvalidRequestsAreAnsweredWithWhatIsAllowed(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	h := b.newAPI(&acted{})
	token := operator(t)
	cursor := *api.WriteCursor(tenantCursor{Value: 1, Tenant: uuid.New()}, (&tenantFilter{Sort: byUsage}).name()...)
	for _, c := range []struct{ method, path, body, want string }{
		{"GET", "tenants?status=dead", "", "past_due"},
		{"GET", "tenants?sort=name", "", "overage"},
		{"GET", "tenants?limit=0", "", "1"},
		{"GET", "tenants?limit=201", "", "200"},
		{"GET", "tenants?limit=many", "", "limit"},
		{"GET", "tenants?search=%00", "", "control characters"},
		{"GET", "tenants?search=%ff", "", "UTF-8"},
		{"GET", "tenants?search=" + strings.Repeat("a", 65), "", "64"},
		{"GET", "tenants?cursor=abc", "", "next_cursor"},
		{"GET", "tenants?cursor=" + cursor, "", "next_cursor"},
		{"GET", "tenants?sort=usage&status=trial&cursor=" + cursor, "", "next_cursor"},
		{"GET", "tenants/me", "", "UUID"},
		{"GET", "tenants/urn:uuid:" + uuid.NewString(), "", "UUID"},
		{"GET", "alerts?limit=501", "", "500"},
		{"GET", "dead-letters?state=shut", "", "retried"},
		{"GET", "dead-letters?reason=bad", "", "unknown_action"},
		{"GET", "dead-letters?tenant_id=x", "", "UUID"},
		{"GET", "dead-letters?limit=201", "", "200"},
		{"GET", "dead-letters?id=4711", "", "1-4711"},
		{"GET", "findings?state=shut", "", "resolved"},
		{"GET", "findings?limit=-1", "", "1"},
		{"GET", "ledger?state=paid", "", "verified"},
		{"GET", "ledger?cursor=e30x", "", "next_cursor"},
		{"GET", "ledger?cursor=" + cursor, "", "next_cursor"},
		{"GET", "ledger?tenant_id={" + uuid.NewString() + "}", "", "UUID"},
		{"POST", "dead-letters/retry", `{}`, "Nothing says which dead letters"},
		{"POST", "dead-letters/retry", ``, "body"},
		{"POST", "dead-letters/retry", `{"everything":true}`, "everything"},
		{"POST", "dead-letters/retry", `{"ids":["1-x"]}`, "1-4711"},
		{"POST", "dead-letters/retry", `{"ids":["1-01"]}`, "1-4711"},
		{"POST", "dead-letters/retry", `{"ids":["9999999999-1"]}`, "1-4711"},
		{"POST", "dead-letters/retry", `{"reason":"bad"}`, "unknown_action"},
		{"POST", "dead-letters/retry", `{"tenant_id":"x"}`, "UUID"},
		{"POST", "dead-letters/retry", `{"reason":"malformed","cursor":"x"}`, "next_cursor"},
		{"POST", "dead-letters/retry", `{"ids":["` + strings.Repeat(`1-1","`, 1000) + `1-1"]}`, "1000"},
		{"POST", "findings/0/resolve", `{"resolution":"x"}`, "1"},
		{"POST", "findings/one/resolve", `{"resolution":"x"}`, "finding_id"},
		{"POST", "findings/1/resolve", `{}`, "resolution"},
		{"POST", "findings/1/resolve", `{"resolution":"  "}`, "how the finding was resolved"},
		{"POST", "findings/1/resolve", `{"resolution":"a\u0000b"}`, "control characters"},
	} {
		detail := apitest.WantProblem(t, apitest.Do(h, c.method, base+c.path, token, c.body, "Content-Type", "application/json"), "400 invalid-request")
		if !strings.Contains(detail, c.want) {
			t.Errorf("%s %s: %q does not tell of %q", c.method, c.path, detail, c.want)
		}
	}
}

func TestUnknownThingsAre404AndNamed(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	h := b.newAPI(&acted{})
	token, stranger := operator(t), uuid.NewString()
	for _, c := range []struct{ method, path, body, problem, name string }{
		{"GET", "tenants/" + stranger, "", "404 no-subscription", stranger},
		{"GET", "dead-letters?id=1-4711", "", "404 not-found", "1-4711"},
		{"POST", "dead-letters/retry", `{"ids":["1-4711","2-1"]}`, "404 not-found", "1-4711, 2-1"},
		{"POST", "jobs/frobnicate/pause", "", "404 not-found", "frobnicate"},
		{"POST", "jobs/frobnicate/resume", "", "404 not-found", "frobnicate"},
		{"POST", "findings/4711/resolve", `{"resolution":"x"}`, "404 not-found", "4711"},
		{"GET", "everything", "", "404 not-found", "/openapi.json"},
	} {
		detail := apitest.WantProblem(t, apitest.Do(h, c.method, base+c.path, token, c.body), c.problem)
		if !strings.Contains(detail, c.name) {
			t.Errorf("%s %s: %q does not name %s", c.method, c.path, detail, c.name)
		}
	}
}

// A stage that fails is said to have failed, and nothing of why.
func TestInternalErrorsAreNotShown(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	keys := get[*api.Keys](t)(api.KeysFromSecret(apitest.Secret, api.Expect{}))
	a := api.New(api.Options{Keys: keys, Log: apitest.Quiet})
	broken := errors.New("dial postgres://user:password@inside")
	Register(a, Options{
		Pool:      b.pool,
		Jobs:      func(context.Context) ([]Job, error) { return nil, broken },
		StreamEnd: func(context.Context) (int64, error) { return 0, broken },
	})
	detail := apitest.WantProblem(t, apitest.Get(a.Handler(), base+"jobs", operator(t)), "500 internal")
	if strings.Contains(detail, "inside") {
		t.Error(detail)
	}
	if o := apitest.Decode[Overview](t, apitest.Get(a.Handler(), base+"overview", operator(t))); o.LagMessages != nil {
		t.Errorf("a lag of %d is claimed", *o.LagMessages)
	}
}

// What a retry cannot be asked for is said in the API's words, not in those of
// what it is made of.
func TestInvalidRetriesAreAnsweredInSentences(t *testing.T) {
	t.Parallel()
	h := newTestEnv(t).newAPI(&acted{})
	for body, want := range map[string]string{
		`{"ids":[],"zzz":1}`:   `"zzz" is no field of the body. It has cursor, ids, reason, tenant_id.`,
		`{`:                    `The body cannot be read as JSON: it ends too early, at byte offset 1.`,
		`{"tenant_id":"x"}`:    `tenant_id is "x": it must be a UUID, as 0b7e4d1c-6f0e-4a53-9d55-3c1c0a3f7e01.`,
		`{"ids":[7]}`:          `ids[0] is 7: it must be a string.`,
		`{"Reason":"too_old"}`: `"Reason" is no field of the body. It has cursor, ids, reason, tenant_id.`,
	} {
		if got := apitest.WantProblem(t, apitest.Do(h, http.MethodPost, base+"dead-letters/retry", operator(t), body), "400 invalid-request"); got != want {
			t.Errorf("%s:\n got %s\nwant %s", body, got, want)
		}
	}
}
