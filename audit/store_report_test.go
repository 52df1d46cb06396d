package audit

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/uuid"

	"odometer/migrations/pgtest"
)

func TestNewestAuditsAreKept(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	const made = keptAudits + 3
	for i := range made {
		if err := StoreReport(t.Context(), pool, newReport(Scope{}), fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	var kept int
	var oldest, newest string
	err := pool.QueryRow(t.Context(), `
		select count(*), (array_agg(by order by audit_id))[1], (array_agg(by order by audit_id desc))[1]
		from audits`).Scan(&kept, &oldest, &newest)
	if err != nil || kept != keptAudits || oldest != "3" || newest != fmt.Sprint(made-1) {
		t.Errorf("%d are kept, from %s to %s, %v; want %d, from 3 to %d", kept, oldest, newest, err, keptAudits, made-1)
	}
}

// What was found can hold anything that an agent or a person wrote.
func TestStoredAuditSaysWhatWasFound(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	r := newReport(Scope{})
	tenant := uuid.New()
	r.addEqual(eventsCounters, 7)
	r.addDifference(streamEvents, Difference{Kind: EventChanged, Tenant: &tenant, Found: "a\x00b \xff \\u0000", Where: `key "x"`})
	r.finish()
	if err := StoreReport(t.Context(), pool, r, "job reconcile"); err != nil {
		t.Fatal(err)
	}
	var by string
	var different int64
	var report []byte
	if err := pool.QueryRow(t.Context(), `select by, different, report from audits`).Scan(&by, &different, &report); err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(report, &back); err != nil {
		t.Fatal(err)
	}
	if by != "job reconcile" || different != 1 || back.Differences[0].Kind != EventChanged || *back.Differences[0].Tenant != tenant ||
		back.Comparisons[eventsCounters].Equal != 7 || !back.At.Equal(r.At) {
		t.Errorf("by %s, %d different: %s", by, different, report)
	}
}
