package audit

import (
	"strings"
	"testing"

	"github.com/google/uuid"
)

// change runs a statement that returns a tenant.
func (e *testEnv) change(sql string) (tenant uuid.UUID) {
	e.t.Helper()
	err := e.Pool.QueryRow(e.t.Context(), sql).Scan(&tenant)
	if err != nil {
		e.t.Fatal(err)
	}
	return tenant
}

const someCounter = `ctid = (select ctid from usage_counters where agent = 'inbox' order by count desc, tenant_id limit 1) returning tenant_id`

func TestSmallDriftIsRepairedAndRecorded(t *testing.T) {
	t.Parallel()
	e := newFilledEnv(t)
	for _, row := range []struct {
		sql     string
		alerted bool
	}{
		{`update usage_counters set count = count + 1 where ` + someCounter, false},
		{`update usage_counters set count = count * 103 / 100 where ` + someCounter, true},
		{`update usage_counters set count = count * 97 / 100 where ` + someCounter, true},
	} {
		e.Exec(`delete from audit_findings`)
		e.change(row.sql)
		r := e.reconcile(false)
		if !r.Done() || len(r.Repaired) != 1 {
			t.Errorf("%s: %+v", row.sql, r)
		}
		e.finds(Scope{})
		n := e.Number(`select count(*) from audit_findings
			where kind = 'counter_drift' and before is not null and after is not null and found_by = 'a test'
			  and resolved_by = 'a test' and resolved_at is not null and resolution like 'set from%' and (notified_at is null) = $1`, row.alerted)
		if n != 1 {
			t.Errorf("%s: %d records of the repair, want 1", row.sql, n)
		}
	}
}

func TestLargeDriftNeedsForce(t *testing.T) {
	t.Parallel()
	e := newFilledEnv(t)
	for _, sql := range []string{
		`update usage_counters set count = count * 2 where ` + someCounter,
		`delete from usage_counters where ` + someCounter,
		`insert into usage_counters (tenant_id, agent, period_start, period_end, count) select tenant_id, 'meeting', period_start, period_end, 7 from billing_periods limit 1 returning tenant_id`,
		`insert into usage_counters (tenant_id, agent, period_start, period_end, count) values (gen_random_uuid(), 'inbox', now(), now(), 7) returning tenant_id`,
	} {
		e.change(sql)
		r := e.reconcile(false)
		if r.Done() || len(r.Left) != 1 || !strings.Contains(r.Left[0].Why, "--force") {
			t.Errorf("%s: without force: %+v", sql, r)
		}
		if n := e.Number(`select count(*) from audit_findings where kind = 'reconcile_error' and resolved_at is null`); n != 1 {
			t.Errorf("%s: %d open findings, want 1", sql, n)
		}
		if r := e.reconcile(true); !r.Done() || len(r.Repaired) != 1 {
			t.Errorf("%s: with force: %+v", sql, r)
		}
		e.finds(Scope{})
		if n := e.Number(`select count(*) from audit_findings where resolved_at is null`); n != 0 {
			t.Errorf("%s: %d findings are open after the repair", sql, n)
		}
	}
}

// Where events are not what the stream says, setting the counter from them
// would make a loss official.
func TestNothingIsRepairedWhereTheStreamDisagrees(t *testing.T) {
	t.Parallel()
	for _, sql := range []string{
		`delete from usage_events where event_id = ` + anEvent + ` returning tenant_id`,
		`update usage_events set quantity = quantity + 1 where event_id = ` + anEvent + ` returning tenant_id`,
		`update usage_events e set period_start = (select min(p.period_start) from billing_periods p where p.tenant_id = e.tenant_id) where event_id = ` + anEvent + ` returning tenant_id`,
	} {
		e := newFilledEnv(t)
		damaged := e.change(sql)
		before := e.Number(`select sum(count) from usage_counters`)
		for _, force := range []bool{false, true} {
			r := e.reconcile(force)
			if r.Done() || len(r.Repaired) != 0 || len(r.Left) == 0 {
				t.Errorf("%s: %+v", sql, r)
			}
		}
		if after := e.Number(`select sum(count) from usage_counters`); after != before {
			t.Errorf("%s: counters went from %d to %d", sql, before, after)
		}
		e.Exec(`update usage_counters set count = count + 1 where tenant_id <> $1 and agent = 'inbox' and count > 100`, damaged)
		if r := e.reconcile(false); len(r.Repaired) == 0 {
			t.Errorf("%s: the other tenants' counters were not repaired: %+v", sql, r.Left)
		}
	}
}

// close freezes the first tenant's ended period, as the reporter does.
func (e *testEnv) close(tenant uuid.UUID) {
	e.t.Helper()
	e.Exec(`update billing_periods p set status = 'closed', closed_at = now(), closed_epoch = s.stream_epoch, closed_seq = s.seq
		from (select max(stream_epoch) as stream_epoch, max(seq) as seq from stream_positions) s
		where tenant_id = $1 and period_end < now()`, tenant)
	e.Exec(`insert into period_totals (tenant_id, agent, period_start, count, "limit", unit_price, overage)
		select c.tenant_id, c.agent, c.period_start, c.count, 50, 0.1, greatest(0, c.count - 50)
		from usage_counters c join billing_periods p using (tenant_id, period_start) where c.tenant_id = $1 and p.status = 'closed'`, tenant)
}

func TestTruthOfClosedPeriodIsItsFrozenTotal(t *testing.T) {
	t.Parallel()
	e := newFilledEnv(t)
	tenant := e.tenants[0]
	e.close(tenant)
	e.finds(Scope{})
	const of = ` where tenant_id = $1 and agent = 'inbox' and period_start = (select min(period_start) from billing_periods where tenant_id = $1)`
	e.Exec(`update usage_counters set count = count + 1`+of, tenant)
	e.finds(Scope{}, CounterDiffers, TotalDiffers)
	if r := e.reconcile(true); !r.Done() || len(r.Repaired) != 1 {
		t.Errorf("%+v", r)
	}
	e.finds(Scope{})
	e.Exec(`update period_totals set count = count + 1, overage = overage + 1`+of, tenant)
	e.Exec(`update usage_counters set count = count + 1`+of, tenant)
	if r := e.reconcile(true); r.Done() || len(r.Repaired) != 0 || !strings.Contains(r.Left[0].Why, "frozen total is the truth") {
		t.Errorf("%+v", r)
	}
}

func TestDifferenceIsAFindingWhileItLasts(t *testing.T) {
	t.Parallel()
	e := newFilledEnv(t)
	open := func(kind string) int64 {
		return e.Number(`select count(*) from audit_findings where resolved_at is null and kind = '` + kind + `'`)
	}
	record := func() {
		if err := RecordFindings(t.Context(), e.Pool, e.audit(Scope{})); err != nil {
			t.Fatal(err)
		}
	}
	e.Exec(`insert into audit_findings (kind, subject, detail, found_by) values ('invariant_broken', 'x', 'x', 'watch')`)
	e.Exec(`create table kept as select * from dead_letters`)
	e.Exec(`delete from dead_letters where ctid = (select ctid from dead_letters limit 1)`)
	record()
	record()
	if n := open(EventMissing); n != 1 {
		t.Errorf("%d findings of what is missing, want 1", n)
	}
	if n := open("invariant_broken"); n != 0 {
		t.Errorf("counters are right, but %d findings say otherwise", n)
	}
	e.Exec(`truncate dead_letters`)
	e.Exec(`insert into dead_letters select * from kept`)
	record()
	if n := open(EventMissing); n != 0 {
		t.Errorf("%d findings are open although nothing is missing", n)
	}
}
