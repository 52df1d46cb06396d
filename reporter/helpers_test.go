package reporter

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/jackc/pgx/v5"

	"odometer/reporter/stripetest"
)

// failSends makes every call that sends usage fail; NoFault ends that.
func (env *testEnv) failSends(f stripetest.Fault) {
	env.stripe.SetFaults(func(r *http.Request, form url.Values) stripetest.Fault {
		if r.Method == http.MethodPost {
			return f
		}
		return stripetest.NoFault
	})
}

// posts returns the calls so far that sent usage; recording starts with the first
// time this is asked.
func (env *testEnv) posts() (posts []stripetest.Call) {
	env.stripe.RecordCalls(true)
	for _, c := range env.stripe.Calls() {
		if c.Method == http.MethodPost {
			posts = append(posts, c)
		}
	}
	return posts
}

// scheduled makes a pass as the clock would have one made.
func (env *testEnv) scheduled() Result {
	env.t.Helper()
	result, err := env.Pass(env.t.Context(), Scope{})
	env.must(err)
	return result
}

// openFindings returns the subjects of open findings of a kind.
func (env *testEnv) openFindings(kind string) (subjects []string) {
	env.t.Helper()
	rows, err := env.db.Pool.Query(env.t.Context(), `select subject from audit_findings where kind = $1 and resolved_at is null`, kind)
	env.must(err)
	defer rows.Close()
	for rows.Next() {
		var s string
		env.must(rows.Scan(&s))
		subjects = append(subjects, s)
	}
	return subjects
}

// expectStates checks the states of a tenant's entries, in order.
func (t *tenant) expectStates(want ...State) {
	t.t.Helper()
	var got []string
	for _, e := range t.allEntries() {
		got = append(got, string(e.State))
	}
	var wanted []string
	for _, s := range want {
		wanted = append(wanted, string(s))
	}
	if strings.Join(got, " ") != strings.Join(wanted, " ") {
		t.t.Errorf("the entries are %v, want %v", got, wanted)
	}
}

// everything makes every request fail.
func everything(f stripetest.Fault) func(*http.Request, url.Values) stripetest.Fault {
	return func(*http.Request, url.Values) stripetest.Fault { return f }
}

// allEntries returns a tenant's entries, also of settled periods.
func (t *tenant) allEntries() []*LedgerEntry {
	rows, _ := t.db.Pool.Query(context.Background(),
		"select"+entryColumns+" from overage_reports r where tenant_id = $1 order by agent, period_start, revision", t.id)
	entries, err := pgx.CollectRows(rows, scanEntry)
	t.must(err)
	return entries
}

// tenantsOver makes n tenants with an overage of 10 each.
func (env *testEnv) tenantsOver(n int) (all []*tenant) {
	env.t.Helper()
	for i := range n {
		a := env.november(fmt.Sprint("crowd", i))
		a.use("inbox", 510)
		all = append(all, a)
	}
	return all
}

func expectMeterTotals(all []*tenant, units int64) {
	all[0].t.Helper()
	for _, a := range all {
		a.expectMeterTotal("inbox", units)
	}
}

// neverSent counts entries that were never sent.
func (env *testEnv) neverSent() (n int) {
	env.t.Helper()
	row := env.db.Pool.QueryRow(env.t.Context(), `
select count(*) from overage_reports
where state = 'planned' and attempts = 0 and first_attempt_at is null and last_attempt_at is null and retry_at is null`)
	env.must(row.Scan(&n))
	return n
}
