package reporter

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"odometer/reporter/stripetest"
)

// failTelling makes every call that tells usage fail; NoFault heals it.
func (w *world) failTelling(f stripetest.Fault) {
	w.stripe.SetFaults(func(r *http.Request, form url.Values) stripetest.Fault {
		if r.Method == http.MethodPost {
			return f
		}
		return stripetest.NoFault
	})
}

// posts are the calls so far that told usage; recording begins with the first
// time this is asked.
func (w *world) posts() (posts []stripetest.Call) {
	w.stripe.RecordCalls(true)
	for _, c := range w.stripe.Calls() {
		if c.Method == http.MethodPost {
			posts = append(posts, c)
		}
	}
	return posts
}

// scheduled makes a pass as the clock would have one made.
func (w *world) scheduled() Result {
	w.t.Helper()
	result, err := w.Pass(w.t.Context(), Scope{})
	w.must(err)
	return result
}

// openFindings are the subjects of what operators have to look at.
func (w *world) openFindings(kind string) (subjects []string) {
	w.t.Helper()
	rows, err := w.pool.Query(w.t.Context(), `select subject from audit_findings where kind = $1 and resolved_at is null`, kind)
	w.must(err)
	defer rows.Close()
	for rows.Next() {
		var s string
		w.must(rows.Scan(&s))
		subjects = append(subjects, s)
	}
	return subjects
}

// expectStates looks at the states of a tenant's links, in order.
func (t *tenant) expectStates(want ...State) {
	t.t.Helper()
	var got []string
	for _, l := range t.all() {
		got = append(got, string(l.State))
	}
	var wanted []string
	for _, s := range want {
		wanted = append(wanted, string(s))
	}
	if strings.Join(got, " ") != strings.Join(wanted, " ") {
		t.t.Errorf("the links are %v, want %v", got, wanted)
	}
}

// everything makes every request fail.
func everything(f stripetest.Fault) func(*http.Request, url.Values) stripetest.Fault {
	return func(*http.Request, url.Values) stripetest.Fault { return f }
}

// all are a tenant's links, also of settled periods.
func (t *tenant) all() []*Link {
	rows, _ := t.pool.Query(context.Background(),
		"select"+linkColumns+" from overage_reports r where tenant_id = $1 order by agent, period_start, revision", t.id)
	links, err := pgx.CollectRows(rows, scanLink)
	t.must(err)
	return links
}

// contextUntil is done once something is so.
func contextUntil(t *testing.T, isSo func() bool) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for !isSo() && ctx.Err() == nil {
			runtime.Gosched()
		}
		cancel()
	}()
	return ctx, cancel
}

// crowd are n tenants with an overage of 10 each.
func (w *world) crowd(n int) (all []*tenant) {
	w.t.Helper()
	for i := range n {
		a := w.month(fmt.Sprint("crowd", i))
		a.use("inbox", 510)
		all = append(all, a)
	}
	return all
}

func expectAllAt(all []*tenant, units int64) {
	all[0].t.Helper()
	for _, a := range all {
		a.expectAt("inbox", units)
	}
}

// untouched counts links that were never sent.
func (w *world) untouched() (n int) {
	w.t.Helper()
	row := w.pool.QueryRow(w.t.Context(), `
select count(*) from overage_reports
where state = 'planned' and attempts = 0 and first_attempt_at is null and last_attempt_at is null and retry_at is null`)
	w.must(row.Scan(&n))
	return n
}
